"""Prompts, token ids, groups and the demo's model: the data that a worker reads and writes."""

"""Turns prompts into groups: episodes are run and scored, responses become one message."""

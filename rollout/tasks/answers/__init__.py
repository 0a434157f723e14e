"""Reads the final answer of a response and compares it with the reference, as judges of texts do."""

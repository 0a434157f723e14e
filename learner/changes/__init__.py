"""Applies operators' changes between two steps, at the same step on every rank, all or none of each."""

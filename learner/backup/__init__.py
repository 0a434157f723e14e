"""Copies everything that a run needs to another place, and makes a run of such a copy again."""

"""Rewards by name: a registry of judges, their weighted sum, and clients of judges elsewhere."""

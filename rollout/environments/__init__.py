"""Processes in which tasks, judges and agents run, limited in time and memory, away from the worker."""

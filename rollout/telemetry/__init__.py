"""Metrics, log files and traces of a worker."""

"""Lifetime of a learner rank: health checks, stop signals, and a watchdog against hangs."""

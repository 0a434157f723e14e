"""Reports what the learner does: metrics files, Prometheus, experiment loggers, and traces."""

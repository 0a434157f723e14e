"""Log-probabilities of a batch under the versions that generated it, and under a frozen reference."""

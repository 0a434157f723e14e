"""The exact token record of every episode: what the model read, generated, and with which version."""

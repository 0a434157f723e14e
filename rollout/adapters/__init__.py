"""Environments of other projects as tasks, run in a virtualenv that has the project's package."""

"""The `leeway` command: starts, checks, shows and operates runs on one machine."""

"""Where the settings file of each process of a run lies."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.run_directory import RunDirectory


def config_file(run: RunDirectory, name: str) -> Path:
    """Where a process's own settings lie."""
    return run.config / f"{name}.json"

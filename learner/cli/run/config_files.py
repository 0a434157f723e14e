"""Paths of the settings files that `leeway up` derives, one for each process of a run."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.run_directory import RunDirectory


def config_file(run: RunDirectory, name: str) -> Path:
    """Path of the settings file of the process called ``name``, such as "gateway" or "worker-0"."""
    return run.config / f"{name}.json"

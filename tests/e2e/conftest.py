"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.live import REPOSITORY, LiveRun


@pytest.fixture(scope="session")
def start_run() -> Iterator[Callable[..., LiveRun]]:
    """Starts runs, and stops those that are still alive at the end."""
    started: list[LiveRun] = []

    def start(directory: Path, *arguments: str) -> LiveRun:
        output = directory.with_suffix(".out")
        with output.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "learner.cli.app", "up", *arguments],
                cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        run = LiveRun(directory, process, output)
        started.append(run)
        return run

    yield start
    for run in started:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.wait(30)

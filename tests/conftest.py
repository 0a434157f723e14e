"""Settings of every test process, made before gRPC and torch are imported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.tools.refuse import refuse

# Test processes fork only to run other programs. gRPC's handlers of a fork have nothing to save for those, and a fork beside
# a server in the same process has crashed in them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Models here are so small that threads of one operator mostly wait for each other, which on a busy machine takes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A job in a shell's background inherits that Ctrl-C is ignored, and so would every program that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuses what is marked with `tests.tools.refuse.needs`."""
    for mark in item.iter_markers("needs"):
        if mark.args[0] is not None:
            refuse(mark.args[0])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Adds the reason of each skipped test to the file that LEEWAY_TEST_SKIPPED names."""
    if (place := os.environ.get("LEEWAY_TEST_SKIPPED")) is None:
        return
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    with Path(place).open("a") as file:
        for report in terminalreporter.stats.get("skipped", []):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            file.write(" ".join(reason.removeprefix("Skipped: ").split()) + "\n")


@pytest.fixture(autouse=True)
def unconfigured_logs() -> Iterator[None]:
    """Takes back what a test, or what it calls, has set of structlog: the next one would not see its own lines."""
    yield
    structlog.reset_defaults()

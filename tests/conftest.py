"""Settings of every test process, made before gRPC is imported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import structlog

# Test processes fork only to run other programs. gRPC's handlers of a fork have nothing to save for those, and a fork beside
# a server in the same process has crashed in them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# A job in a shell's background inherits that Ctrl-C is ignored, and so would every program that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def unconfigured_logs() -> Iterator[None]:
    """Takes back what a test, or what it calls, has set of structlog: the next one would not see its own lines."""
    yield
    structlog.reset_defaults()

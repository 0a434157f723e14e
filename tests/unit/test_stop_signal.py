"""What a learner knows of the time it has left."""

import os
import signal
from collections.abc import Iterator

import pytest

from learner.stop_signal import StopSignal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_time_runs_from_the_first_signal(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("learner.stop_signal.time.monotonic", lambda: now[0])
    stop = StopSignal(grace_s=30.0)
    assert (stop.requested(), stop.left_s()) == (False, None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.requested(), stop.left_s()) == (True, 29.0)  # and one to leave
    now[0] = 120.0
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.left_s() == 9.0
    now[0] = 140.0
    assert stop.left_s() == 0.0

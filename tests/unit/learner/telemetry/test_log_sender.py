"""A logger in its thread: order, failures, a service that hangs, one that does not keep up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

import pytest

from learner.telemetry.log_sender import LogSender, SendError


class Recording:
    """Records what it is sent, once ``open`` is set; fails at step ``fails``."""

    def __init__(self, fails: int | None = None) -> None:
        self.open, self.steps, self.closed, self.fails = threading.Event(), list[int](), 0, fails
        self.open.set()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.open.wait(60)
        if step == self.fails:
            raise ZeroDivisionError("what a library may raise")
        self.steps.append(step)

    def close(self) -> None:
        self.closed += 1


def test_everything_is_sent_in_order_before_the_end():
    logger = Recording()
    sender = LogSender("x", logger)
    for step in range(50):
        sender.log(step, {})
    sender.close()
    assert (logger.steps, logger.closed) == (list(range(50)), 1)


def test_a_failure_is_raised_at_the_next_step_and_nothing_more_is_sent():
    logger = Recording(fails=2)
    sender = LogSender("x", logger)
    for step in range(3):
        sender.log(step, {})
    sender._thread.join(60)
    with pytest.raises(SendError, match="ZeroDivisionError: what a library may raise"):
        sender.log(3, {})
    assert (logger.steps, logger.closed) == ([0, 1], 0)


def test_a_failure_of_the_last_step_is_raised_at_the_end():
    sender = LogSender("x", Recording(fails=0))
    sender.log(0, {})
    with pytest.raises(SendError, match="ZeroDivisionError"):
        sender.close()


def test_a_service_that_hangs_delays_neither_a_step_nor_the_end():
    logger = Recording()
    logger.open.clear()
    sender = LogSender("x", logger, end_s=0.05)
    for step in range(1000):
        sender.log(step, {})
    with contextlib.suppress(SendError):  # the thread may have begun with one, and there is room for one more
        sender.log(1000, {})
    with pytest.raises(SendError, match="1000 steps wait"):
        sender.log(1001, {})
    with pytest.raises(SendError, match=r"has not sent everything within 0\.05 s"):
        sender.close()
    logger.open.set()

"""Tests that a signal ends a process's work without an error, and that nothing else does."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from runtime.stop_on_signal import run_until_stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_the_work_and_is_no_error(number: signal.Signals):
    ended: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    asyncio.run(run_until_stopped(work()))
    assert ended == ["cleaned up"]


def test_work_that_ends_or_fails_by_itself():
    async def fails() -> None:
        raise ValueError("broken")

    asyncio.run(run_until_stopped(asyncio.sleep(0)))
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run_until_stopped(fails()))


def test_a_cancellation_without_a_signal_is_passed_on():
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run_until_stopped(work()))

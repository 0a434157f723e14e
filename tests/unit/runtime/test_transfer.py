"""Transfers: tried again, given up after their time, several at once, and never in the way of the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from runtime import transfer as module
from runtime.transfer import TransferError, at_once, transfer, within


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSES_S", (0.0, 0.0))


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    """An action that raises ``error`` so many times before it returns, and the list of its calls."""
    calls: list[int] = []

    def action() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return action, calls


def test_what_fails_once_is_tried_again():
    action, calls = failing(2, ValueError("SlowDown"))
    assert transfer("s3://b/x", action, 60.0) == "done"
    assert len(calls) == 3


def test_what_fails_every_time_is_named():
    action, calls = failing(3, ValueError("SlowDown"))
    with pytest.raises(TransferError, match=r"^s3://b/x: ValueError: SlowDown$"):
        transfer("s3://b/x", action, 60.0)
    assert len(calls) == 3


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("no")])
def test_an_answer_that_would_be_the_same_again_is_final(error: Exception):
    action, calls = failing(1, error)
    with pytest.raises(TransferError):
        transfer("s3://b/x", action, 60.0)
    assert len(calls) == 1


def test_a_store_that_does_not_answer_is_given_up_and_left_in_a_daemon_thread():
    release = threading.Event()
    try:
        with pytest.raises(TransferError, match=r"^s3://b/x: TimeoutError: no answer for 0\.01 s$"):
            transfer("s3://b/x", release.wait, 0.01)
        left = [thread for thread in threading.enumerate() if thread.name == "transfer"]
        assert left
        assert all(thread.daemon for thread in left)
    finally:
        release.set()


def test_what_an_action_returns_and_raises_passes():
    assert within(60.0, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(60.0, lambda: 1 / 0)


def test_transfers_run_at_once_but_not_more_than_asked():
    both = threading.Barrier(2, timeout=60)  # passes only if two run at the same time
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def action() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        both.wait()
        with lock:
            running.pop()

    at_once([action] * 4, 2)
    assert max(most) == 2
    assert len(most) == 4


def test_the_first_error_of_several_is_raised_and_nothing_more_begins():
    begun: list[str] = []

    def broken() -> None:
        begun.append("broken")
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        at_once([broken, lambda: begun.append("never")], 1)
    assert begun == ["broken"]

"""Transfers to and from object stores: each with a time limit, tried again after a pause, several at a time.

A call of a third-party client cannot be interrupted. It runs in a daemon thread, which is left behind when its time is over:
it holds up neither the caller nor the end of the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

T = TypeVar("T")
_PAUSES_S = (1.0, 5.0)  # before the second and the third attempt
_FINAL = (FileNotFoundError, PermissionError)  # another attempt would give the same answer


class TransferError(OSError):
    """A transfer that failed; the message names it and says why."""


def transfer(what: str, action: Callable[[], T], timeout_s: float) -> T:
    """Runs ``action``, a call of a store's client that may be repeated, up to three times.

    Args:
        what: the transfer, for the message.
        action: may raise anything; what a missing file or a lack of rights raise is final.
        timeout_s: limit of one attempt, seconds.

    Raises:
        TransferError: the last attempt failed, or took too long.
    """
    for pause in (*_PAUSES_S, None):
        try:
            return within(timeout_s, action)
        except Exception as error:  # a client may raise anything
            if pause is None or isinstance(error, _FINAL):
                raise TransferError(f"{what}: {type(error).__name__}: {error}") from error
            structlog.get_logger().warning(
                "transfer failed; tried again", transfer=what, error=f"{type(error).__name__}: {error}", pause_s=pause
            )
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def within(timeout_s: float, action: Callable[[], T]) -> T:
    """Returns what ``action`` returns, or raises what it raises.

    Raises:
        TimeoutError: it has not returned after ``timeout_s`` seconds; it goes on in its thread.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - the end of this thread; raised in the caller's
            errors.append(error)

    thread = threading.Thread(target=run, name="transfer", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer for {timeout_s:g} s")
    return results[0]


def at_once(actions: Iterable[Callable[[], None]], most: int) -> None:
    """Runs ``actions``, at most ``most`` at a time, and raises the first error of any after all that began have ended.

    After an error no further action begins.
    """
    waiting = list(actions)[::-1]
    errors: list[BaseException] = []
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                if errors or not waiting:
                    return
                action = waiting.pop()
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - the end of this thread; raised in the caller's
                errors.append(error)

    threads = [threading.Thread(target=run, name="transfers", daemon=True) for _ in range(min(most, len(waiting)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]

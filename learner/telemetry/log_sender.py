"""Feeds one experiment logger from a thread, so that a slow or dead service delays no step and no end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Protocol

_BEHIND = 1000  # steps that wait to be sent, above which a logger is given up
_END_S = 30.0  # for what is left to be sent at the end


class Logger(Protocol):
    """One experiment logger, whichever service is behind it. Its methods are called on one thread, and may raise anything."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of one optimizer step."""
        ...

    def close(self) -> None:
        """Sends what has not been sent yet, and ends the logger."""
        ...


class SendError(Exception):
    """A logger has failed, does not keep up, or does not end."""


class LogSender:
    """Sends steps to a logger in the background, in order.

    Args:
        name: of the logger, for messages and the thread.
        logger: what sends.
        end_s: seconds that ``close`` waits.
    """

    def __init__(self, name: str, logger: Logger, end_s: float = _END_S) -> None:
        self._logger = logger
        self._end_s = end_s
        self._failure: Exception | None = None
        self._steps: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue()
        # A daemon: a service that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands over the numbers of a step.

        Raises:
            SendError: the logger has failed with an earlier step, or is a thousand steps behind.
        """
        self._raise_failure()
        if self._steps.qsize() >= _BEHIND:
            raise SendError(f"{_BEHIND} steps wait to be sent")
        self._steps.put((step, values))

    def close(self) -> None:
        """Waits until everything is sent and the logger has ended.

        Raises:
            SendError: it has failed, or has not ended within the limit.
        """
        self._steps.put(None)
        self._thread.join(self._end_s)
        self._raise_failure()
        if self._thread.is_alive():
            raise SendError(f"it has not sent everything within {self._end_s:g} s")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise SendError(f"{type(self._failure).__name__}: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            while (item := self._steps.get()) is not None:
                self._logger.log(*item)
            self._logger.close()
        except Exception as error:  # noqa: BLE001 - a client library raises what it likes; the logger is dropped and counted
            self._failure = error

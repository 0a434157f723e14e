"""gRPC's own messages, kept short: a stranger can provoke them at will, and must not fill the disk."""

from __future__ import annotations

import logging
import time
import traceback
from types import SimpleNamespace

import structlog
from grpc._cython import cygrpc  # pyright: ignore[reportAttributeAccessIssue]

_EVERY_S = 60.0
_KIND = 60  # characters that tell one kind of message from another
_MOST_KINDS = 64


class RateLimitedHandler(logging.Handler):
    """Logs one line per kind of message and minute, with how many there were."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, tuple[float, int]] = {}  # kind -> (when last, how many since)
        self._log = structlog.get_logger(process="gateway")

    @classmethod
    def install(cls) -> None:
        """Takes over everything that gRPC's Python parts log."""
        logger = logging.getLogger("grpc")
        logger.handlers = [cls()]
        logger.propagate = False
        # When a client goes away in the middle of a refusal, the asyncio server prints a traceback, past every logger.
        shown = {**vars(traceback), "print_exc": lambda *_, **__: logger.error("traceback", exc_info=True)}
        cygrpc.traceback = SimpleNamespace(**shown)

    def emit(self, record: logging.LogRecord) -> None:
        lines = record.getMessage().strip().splitlines() or [""]
        text = str(record.exc_info[1]) if record.exc_info and record.exc_info[1] else lines[-1]
        kind = text[:_KIND]
        now = time.monotonic()
        if kind not in self._said and len(self._said) >= _MOST_KINDS:
            kind = text = "many other things"
        when, count = self._said.get(kind, (now - _EVERY_S, 0))
        if now - when < _EVERY_S:
            self._said[kind] = (when, count + 1)
            return
        self._said[kind] = (now, 0)
        self._log.warning("grpc says", text=text[:200], times=count + 1)

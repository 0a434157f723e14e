"""Limits the rate of gRPC's own log messages: a client can provoke any number of them, and must not fill the disk."""

from __future__ import annotations

import logging
import time
import traceback
from types import SimpleNamespace

import structlog
from grpc._cython import cygrpc  # pyright: ignore[reportAttributeAccessIssue]

_EVERY_S = 60.0
_KIND_CHARACTERS = 60  # messages that begin with the same characters are of one kind
_MAX_KINDS = 64


class RateLimitedHandler(logging.Handler):
    """Logs one line per kind of message and minute, with the number of messages since the line before."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logged: dict[str, tuple[float, int]] = {}  # kind -> (when its last line was, how many messages since)
        self._log = structlog.get_logger(process="gateway")

    @classmethod
    def install(cls) -> None:
        """Replaces the handlers of everything that gRPC's Python code logs."""
        logger = logging.getLogger("grpc")
        logger.handlers = [cls()]
        logger.propagate = False
        # If a client goes away while its call is refused, the asyncio server prints a traceback without using a logger.
        patched = {**vars(traceback), "print_exc": lambda *_, **__: logger.error("traceback", exc_info=True)}
        cygrpc.traceback = SimpleNamespace(**patched)

    def emit(self, record: logging.LogRecord) -> None:
        """Logs the record's last line, unless a line of its kind was logged within the last minute."""
        lines = record.getMessage().strip().splitlines() or [""]
        text = str(record.exc_info[1]) if record.exc_info and record.exc_info[1] else lines[-1]
        kind = text[:_KIND_CHARACTERS]
        now = time.monotonic()
        if kind not in self._logged and len(self._logged) >= _MAX_KINDS:
            kind = text = "many other messages"
        when, count = self._logged.get(kind, (now - _EVERY_S, 0))
        if now - when < _EVERY_S:
            self._logged[kind] = (when, count + 1)
            return
        self._logged[kind] = (now, 0)
        self._log.warning("grpc message", text=text[:200], times=count + 1)

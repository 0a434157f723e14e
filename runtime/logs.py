"""Structured logs: JSON lines where stderr is a file or a pipe, readable lines where it is a terminal.

Every JSON line has time (ISO 8601, UTC), level, process, run and event; fleet, group and version where they are known. What
libraries say through `logging` (warnings and worse), Python's own warnings and the exception that ends the process become
such lines too, so that a collector can parse every line of these processes.

    LEEWAY_LOG=json|console       instead of the choice by stderr
    LEEWAY_LOG_LEVEL=DEBUG|...    instead of INFO
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from runtime.settings import SettingsError
from runtime.termination import leave_reason

_FORMATS = ("json", "console")


def configure(process: str, run: str = "", **known: str) -> structlog.stdlib.BoundLogger:
    """Sets up the logs of this process and returns a logger. Call it again when more is known, for later loggers.

    Args:
        process: "gateway", "learner-0", "worker-0", ...
        run: the run's name, as soon as there is one.
        known: further fields of every line, such as fleet.

    Raises:
        SettingsError: LEEWAY_LOG or LEEWAY_LOG_LEVEL has an unknown value.
    """
    level = _level()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _Constant({"process": process, "run": run, **{name: value for name, value in known.items() if value}}),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if _as_json():
        last: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
    else:
        last = [structlog.dev.ConsoleRenderer(timestamp_key="time")]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write per line: ranks share a file
        cache_logger_on_first_use=True,
    )
    _take_over_logging(shared, last, max(level, logging.WARNING))
    return structlog.get_logger()


def fatal(message: str) -> None:
    """Writes why the process ends: as a JSON line, or on a terminal as ``error: ...``; and where Kubernetes looks for it."""
    leave_reason(message)
    if _as_json():
        structlog.get_logger().critical(message)
    else:
        sys.stderr.write(f"error: {message}\n")


class _Constant:
    """Adds fixed fields to every line, from whatever thread; fields of the line itself take precedence."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        return {**self._fields, **event}


def _as_json() -> bool:
    chosen = os.environ.get("LEEWAY_LOG", "").lower()
    if chosen and chosen not in _FORMATS:
        raise SettingsError(f"LEEWAY_LOG = {chosen!r}: expected one of {', '.join(_FORMATS)}")
    return chosen == "json" if chosen else not sys.stderr.isatty()


def _level() -> int:
    chosen = os.environ.get("LEEWAY_LOG_LEVEL", "INFO").upper()
    levels = logging.getLevelNamesMapping()
    if chosen not in levels:
        raise SettingsError(f"LEEWAY_LOG_LEVEL = {chosen!r}: expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return levels[chosen]


def _take_over_logging(shared: list[Processor], last: list[Processor], level: int) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical(f"{kind.__name__}: {error}", exc_info=(kind, error, trace))


def _uncaught_in_thread(arguments: Any) -> None:
    if arguments.exc_value is not None:
        _uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

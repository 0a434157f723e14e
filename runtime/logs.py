"""Structured logs: JSON lines when nobody watches, readable lines on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(process: str, level: str = "INFO") -> structlog.stdlib.BoundLogger:
    """Sets up structlog once per process and returns a logger bound to the process's name.

    Args:
        process: "gateway", "learner", "rollout-0", ...
        level: a standard level name.
    """
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger(process=process)

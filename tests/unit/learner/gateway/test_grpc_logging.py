"""gRPC's own messages reach the gateway's log in few lines, whatever clients do."""

from __future__ import annotations

import logging

import pytest
import structlog
from structlog.testing import capture_logs

from learner.gateway.grpc_logging import RateLimitedHandler


@pytest.fixture
def logger() -> logging.Logger:
    structlog.reset_defaults()
    logger = logging.Logger("grpc-test")
    with capture_logs():
        logger.addHandler(RateLimitedHandler())
    return logger


def test_one_line_per_kind(logger: logging.Logger):
    with capture_logs() as lines:
        for _ in range(1000):
            logger.error("Traceback (most recent call last):\n  File x\nExecuteBatchError: Failed")
            logger.error("something else")
            logger.info("nothing of importance")
    assert [(line["text"], line["times"]) for line in lines] == [
        ("ExecuteBatchError: Failed", 1),
        ("something else", 1),
    ]


def test_kinds_are_bounded_and_lines_are_short(logger: logging.Logger):
    with capture_logs() as lines:
        for number in range(5000):
            logger.error(f"{number} {'x' * 5000}")
    assert len(lines) == 65
    assert lines[-1]["text"] == "many other messages"
    assert max(len(line["text"]) for line in lines) == 200


def test_the_next_line_says_how_many_were_kept_back(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch):
    with capture_logs() as lines:
        for _ in range(3):
            logger.error("again")
        monkeypatch.setattr("learner.gateway.grpc_logging._EVERY_S", 0.0)
        logger.error("again")
    assert [line["times"] for line in lines] == [1, 3]

"""Tests of the reason that a failed process is said to have."""

from __future__ import annotations

import pytest

from learner.cli.run.failure_reason import failure_reason


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "it wrote nothing"),
        ("loading\nready\n", "ready"),
        (
            "Traceback:\n  File\nredis.errors.ConnectionError: refused\nbye",
            "redis.errors.ConnectionError: refused",
        ),
        ('{"level": "error", "event": "port in use"}\n{"level": "info", "event": "bye"}', "port in use"),
        ("OSError: real\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \nat end", "OSError: real"),
    ],
)
def test_failure_reason(output: str, words: str):
    assert failure_reason(output) == words

"""Log lines as a collector meets them: JSON with the fields it needs, whoever speaks; readable on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from runtime import logs
from runtime.settings import SettingsError

_SPEAK = """
import logging, threading, warnings
import structlog
from runtime import logs
logs.configure("gateway")
logs.configure("gateway", run="demo-1", fleet="tokyo")
structlog.get_logger().info("started", group="g1", version=3)
structlog.get_logger().debug("detail")
structlog.get_logger().info("of another", fleet="oslo")
logging.getLogger("library").warning("careful: %s", "hot")
logging.getLogger("library").info("chatter")
warnings.warn("old way", UserWarning)
thread = threading.Thread(target=lambda: structlog.get_logger().info("from a thread"))
thread.start(); thread.join()
structlog.contextvars.bind_contextvars(group="g2")
structlog.get_logger().error("in context")
raise ValueError("the end")
"""


def speak(code: str = _SPEAK, **environment: str) -> str:
    """What a process that runs ``code`` writes to stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    return ended.stderr


def test_every_line_is_json_with_what_a_collector_needs_whoever_speaks():
    rows = [json.loads(line) for line in speak().splitlines()]
    for row in rows:
        assert row["time"].endswith("Z")
        assert (row["process"], row["run"]) == ("gateway", "demo-1")
        assert {"level", "event"} <= row.keys()
    said = {row["event"].splitlines()[0]: row for row in rows}
    assert list(said)[:3] == ["started", "of another", "careful: hot"]  # nothing below INFO, libraries from WARNING on
    assert (said["started"]["group"], said["started"]["version"], said["started"]["fleet"]) == ("g1", 3, "tokyo")
    assert said["of another"]["fleet"] == "oslo"
    assert said["careful: hot"]["logger"] == "library"
    assert any("old way" in event for event in said)
    assert "group" not in said["from a thread"]
    assert said["in context"]["group"] == "g2"
    assert "Traceback" in said["ValueError: the end"]["exception"]
    assert said["ValueError: the end"]["level"] == "critical"


def test_a_terminal_gets_readable_lines_and_the_level_can_be_chosen():
    text = speak(LEEWAY_LOG="console", LEEWAY_LOG_LEVEL="debug")
    assert "started" in text
    assert "detail" in text
    assert '"event"' not in text
    assert text.rstrip().endswith("ValueError: the end")
    assert "started" not in speak(LEEWAY_LOG_LEVEL="ERROR")


def test_why_a_process_ends_is_a_line_of_json_or_of_english():
    code = "from runtime import logs; logs.configure('rollout'); logs.fatal('no token')"
    row = json.loads(speak(code))
    assert (row["event"], row["level"], row["process"], row["run"]) == ("no token", "critical", "rollout", "")
    assert speak(code, LEEWAY_LOG="console") == "error: no token\n"


@pytest.mark.parametrize(("name", "value"), [("LEEWAY_LOG", "xml"), ("LEEWAY_LOG_LEVEL", "LOUD")])
def test_a_choice_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"(?i){name} = '{value}': expected one of"):
        logs.configure("x")

"""Tests of how the Redis is reached that a learner's own backup is restored into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learner.backup.live import SETTINGS
from learner.cli.operate.restored_queue import queue_to_fill
from learner.cli.run.run_directory import RunDirectory

TLS = {"ca": "/tls/ca.crt", "certificate": "/tls/tls.crt", "key": "/tls/tls.key"}


@pytest.mark.parametrize(
    ("url", "ca", "password"),
    [
        ("rediss://leeway@redis:6379/0", "/tls/ca.crt", "/redis/password"),
        ("rediss+sentinel://one:26379,two:26379/name", "/tls/ca.crt", "/redis/password"),
        ("rediss://leeway:secret@redis:6379/0", "/tls/ca.crt", None),
        ("redis://leeway@redis:6379/0", None, "/redis/password"),
        ("redis://redis:6379/0", None, None),
    ],
)
def test_what_the_url_leaves_open_is_taken_from_the_learners_settings(
    tmp_path: Path, url: str, ca: str | None, password: str | None
):
    queue: dict[str, Any] = {"url": "rediss://***@old/0", "run": "demo", "tls": TLS, "password_file": "/redis/password"}
    (tmp_path / SETTINGS).write_text(json.dumps({"queue": queue}))
    with queue_to_fill(RunDirectory.at(tmp_path), url, "demo") as config:
        assert (config.url, config.run) == (url, "demo")
        assert config.tls.ca == (None if ca is None else Path(ca))
        assert config.password_file == (None if password is None else Path(password))

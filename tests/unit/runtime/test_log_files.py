"""Tests of logs that stay small while their writer goes on."""

from __future__ import annotations

from pathlib import Path

from runtime.log_files import keep_small


def test_a_long_log_is_moved_aside_and_its_writer_goes_on(tmp_path: Path):
    log = tmp_path / "engine.log"
    with log.open("ab", buffering=0) as writer:
        for line in (b"a" * 50, b"b" * 50, b"c"):
            writer.write(line)
            keep_small(log, 40)
    assert log.read_bytes() == b"c"
    assert log.with_name("engine.log.1").read_bytes() == b"b" * 50


def test_a_short_log_and_one_that_is_not_there_stay(tmp_path: Path):
    log = tmp_path / "engine.log"
    keep_small(log, 1)
    log.write_text("short")
    keep_small(log, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.log"]

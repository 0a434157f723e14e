"""A run's directory: its file modes, its identity in Redis, and older runs that are renamed."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.run_directory import RunDirectory
from tests.tools.runs import make_run


def test_setting_aside_counts_on(tmp_path: Path):
    for expected in (None, "r.1", "r.2"):
        moved = RunDirectory.at(tmp_path / "r").set_aside()
        assert moved == (expected and tmp_path / expected)
        make_run(tmp_path / "r")


def test_secrets_are_closed_to_others(tmp_path: Path):
    run = make_run(tmp_path / "r").directory
    assert [path.stat().st_mode & 0o777 for path in (run.config, run.redis, run.root / "secrets")] == [0o700] * 3


def test_an_identity_is_the_runs_own_and_lasts(tmp_path: Path):
    first, second = (make_run(tmp_path / name).directory for name in "ab")
    assert first.identity("demo") == first.identity("demo") != second.identity("demo")
    assert first.identity("demo").startswith("demo-")

"""Ranks that fail say why, and those of the next launch do not notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parallel.ranks import run_cases, started


def test_a_rank_that_fails_is_quoted_and_the_next_ones_run(tmp_path: Path):
    for name in ("bad", "good", "killed"):
        (tmp_path / name).mkdir()
    with pytest.raises(AssertionError, match=r"status 1\n(.*\n)*KeyError: 'model'"):
        run_cases(2, [{"name": "nothing"}], tmp_path / "bad")
    run_cases(2, [], tmp_path / "good")
    assert (tmp_path / "good" / "log").read_text() == ""
    with started(2, [{"name": "nothing"}], tmp_path / "killed") as ranks:
        ranks.kill()
    assert ranks.poll() not in (None, 0)

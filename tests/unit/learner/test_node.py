"""Tests of the process that runs a node's ranks: its exit status is theirs, and a wrong configuration ends it at once."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from learner.node import exit_status

# A rank that notes its start and ends with the status of its argument.
_RANK = """
import os, sys
from runtime.termination import leave_reason
with open(sys.argv[1], "a") as starts:
    starts.write("x")
leave_reason("learner.steps = 0: expected more than 0")
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([1], 1), ([-9], 1), ([-15, 2], 2), ([1, 3], 3), ([4, 1], 4), ([4, 2], 2)],
)
def test_the_status_says_most_about_what_ranks_ended_with(statuses, expected):
    failures: Any = {rank: SimpleNamespace(exitcode=status, timestamp=rank) for rank, status in enumerate(statuses)}
    assert exit_status(failures) == expected


def test_a_rank_that_left_no_reason_is_named(tmp_path, monkeypatch):
    place = tmp_path / "log"
    monkeypatch.setenv("LEEWAY_TERMINATION_LOG", str(place))
    failures: Any = {3: SimpleNamespace(exitcode=-9, timestamp=5), 7: SimpleNamespace(exitcode=1, timestamp=6)}
    exit_status(failures)
    assert place.read_text() == "rank 3 ended with signal 9: see the log of this pod\n"


@pytest.mark.timeout(120)
def test_ranks_whose_configuration_is_wrong_are_started_once_and_the_reason_stays(tmp_path):
    script, starts, place = tmp_path / "rank.py", tmp_path / "starts", tmp_path / "log"
    script.write_text(_RANK)
    words = ["--standalone", "--nproc-per-node=1", "--max-restarts=3", str(script), str(starts), "2"]
    done = subprocess.run(
        [sys.executable, "-m", "learner.node", *words],
        env={**os.environ, "LEEWAY_TERMINATION_LOG": str(place), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert starts.read_text() == "x"
    assert place.read_text() == "learner.steps = 0: expected more than 0\n"

"""A run that came to nothing says so, in its summary and on the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import summarize
from learner.cli.run.warnings import warnings
from learner.cli.view.closing_summary import print_summary
from leeway.v1 import rollout_pb2
from tests.tools.runs import DEMO, step

RUN = Path("/runs/r")
GOOD = rollout_pb2.Ledger(fleet="good", received=9, accepted=8, rejected=1, trained=7, expired=1)
EXPIRED = rollout_pb2.Ledger(fleet="slow", received=8, accepted=8, expired=8)
REJECTED = rollout_pb2.Ledger(
    fleet="bad", received=12, rejected=9, duplicate=3, rejected_by_reason={"vocabulary": 8, "length": 1}
)


def uniform(number: int) -> dict[str, Any]:
    return step(number, informative=0.0, trained_tokens=0, reward=0.0)


def test_a_run_in_which_no_group_had_a_contrast():
    (line,) = warnings([uniform(1), uniform(2)], [GOOD], RUN)
    for words in (
        "nothing was learned",
        "none of the 2 steps",
        "rewards",
        "rollout.task",
        "rollout.sampling.temperature",
    ):
        assert words in line


def test_a_run_whose_judge_never_answered_is_not_told_that_its_rewards_are_equal():
    (line,) = warnings([uniform(1) | {"reward": None}, uniform(2) | {"reward": None}], [GOOD], RUN)
    assert "no response of the 2 steps was scored" in line
    assert "leeway ledger" in line
    (line,) = warnings([uniform(1) | {"reward": None}, uniform(2)], [GOOD], RUN)
    assert "did a group's responses differ" in line


def test_a_run_whose_every_update_was_skipped():
    (line,) = warnings([step(1, finite=False), uniform(2), step(3, finite=False)], [GOOD], RUN)
    assert "not finite in any of the 2 steps" in line
    assert "learner.optimizer" in line


@pytest.mark.parametrize("rows", [[], [step(1)], [uniform(1), step(2)], [step(1, finite=False), step(2, finite=True)]])
def test_a_run_that_learned_or_did_not_begin_warns_of_nothing(rows: list[dict[str, Any]]):
    assert warnings(rows, [GOOD], RUN) == []


def test_a_fleet_whose_groups_were_all_rejected_or_all_expired():
    rejected, expired = warnings([step(1)], [GOOD, REJECTED, EXPIRED], RUN)
    assert rejected == (
        "every group of fleet bad was rejected (9: length 1, vocabulary 8); see why with: "
        "leeway quarantine list /runs/r --fleet bad"
    )
    assert "every group of fleet slow expired before it was trained (8); look at learner.max_staleness" in expired


def test_the_summary_has_the_warnings_and_prints_each_on_one_line(tmp_path: Path):
    history = RunHistory(tmp_path)
    history.learner.add(uniform(1))
    outcome = Outcome(started=0.0, stopping=2.0, ended=3.0, ledgers=[REJECTED])
    summary = summarize(RunFile.read(DEMO, [f"run.dir={tmp_path}"]), history, outcome)
    assert len(summary["warnings"]) == 2
    output = io.StringIO()
    print_summary(Console(file=output, width=80, color_system=None), summary)
    assert [f"warning: {line}" for line in summary["warnings"]] == output.getvalue().splitlines()[-2:]
    del summary["warnings"]  # as an older release wrote it
    print_summary(Console(file=output, width=80, color_system=None), summary)


def test_a_fleet_with_refused_groups():
    ledger = rollout_pb2.Ledger(fleet="hot", accepted=5, trained=3, quarantined=2)
    (line,) = warnings([step(1)], [GOOD, ledger], RUN)
    assert line.startswith("2 groups of fleet hot were refused because their losses or gradients were not finite")
    assert line.endswith("leeway quarantine list /runs/r --fleet hot")

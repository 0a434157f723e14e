"""A run that came to nothing says so, in its summary and on the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from learner.cli.run.evaluations import Estimate, Evaluation
from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import summarize
from learner.cli.run.warnings import Evidence, warnings
from learner.cli.view.closing_summary import print_summary
from leeway.v1 import rollout_pb2
from tests.tools.lively_run import evaluation
from tests.tools.runs import DEMO, step, write_rows

RUN = Path("/runs/r")
GOOD = rollout_pb2.Ledger(fleet="good", received=99, accepted=98, rejected=1, trained=97, expired=1)
EXPIRED = rollout_pb2.Ledger(fleet="slow", received=8, accepted=8, expired=8)
REJECTED = rollout_pb2.Ledger(
    fleet="bad", received=12, rejected=9, duplicate=3, rejected_by_reason={"vocabulary": 8, "length": 1}
)


def uniform(number: int) -> dict[str, Any]:
    return step(number, informative=0.0, trained_tokens=0, reward=0.0)


def test_a_run_in_which_no_group_had_a_contrast():
    (line,) = warnings(Evidence([uniform(1), uniform(2)], [GOOD], RUN))
    for words in (
        "nothing was learned",
        "no step was informative",
        "none of the 2 steps",
        "rewards",
        "rollout.task",
        "rollout.sampling.temperature",
    ):
        assert words in line


def test_a_run_whose_judge_never_answered_is_not_told_that_its_rewards_are_equal():
    (line,) = warnings(Evidence([uniform(1) | {"reward": None}, uniform(2) | {"reward": None}], [GOOD], RUN))
    assert "no response of the 2 steps was scored" in line
    assert "leeway ledger" in line
    (line,) = warnings(Evidence([uniform(1) | {"reward": None}, uniform(2)], [GOOD], RUN))
    assert "did a group's responses differ" in line


def test_a_run_whose_every_update_was_skipped():
    (line,) = warnings(Evidence([step(1, finite=False), uniform(2), step(3, finite=False)], [GOOD], RUN))
    assert "not finite in any of the 2 steps" in line
    assert "learner.optimizer" in line


@pytest.mark.parametrize(
    "rows", [[], [step(1)], [uniform(1), *map(step, range(2, 12))], [step(1, finite=False), step(2, finite=True)]]
)
def test_a_run_that_learned_or_did_not_begin_warns_of_nothing(rows: list[dict[str, Any]]):
    assert warnings(Evidence(rows, [GOOD], RUN)) == []


def test_many_steps_without_anything_to_learn_from():
    (line,) = warnings(Evidence([uniform(1), *map(step, range(2, 11))], [GOOD], RUN))
    assert line.startswith("1 of 10 steps had nothing to learn from")
    assert "task.rest" in line


def test_a_fleet_whose_groups_were_all_rejected_or_all_expired():
    rejected, expired = warnings(Evidence([step(1)], [GOOD, REJECTED, EXPIRED], RUN))
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
    nothing, rejected, unevaluated = summary["warnings"]
    assert nothing.startswith("nothing was learned")
    assert rejected.startswith("every group of fleet bad")
    assert unevaluated.startswith("no evaluation was completed")  # the demo has [eval]
    output = io.StringIO()
    print_summary(Console(file=output, width=80, color_system=None), summary, tmp_path)
    # Directly below the title: before any number.
    assert output.getvalue().splitlines()[1:4] == [f"warning: {line}" for line in summary["warnings"]]


def test_a_fleet_with_refused_groups():
    ledger = rollout_pb2.Ledger(fleet="hot", accepted=5, trained=3, quarantined=2)
    (line,) = warnings(Evidence([step(1)], [GOOD, ledger], RUN))
    assert line.startswith("2 groups of fleet hot were refused because their losses or gradients were not finite")
    assert line.endswith("leeway quarantine list /runs/r --fleet hot")


def told(rows: list[dict[str, Any]], *ledgers: rollout_pb2.Ledger, **values: Any) -> list[str]:
    return warnings(Evidence(rows, ledgers or [GOOD], RUN, **values))


def test_truncated_responses_are_counted_by_step_size():
    """31 %: (10 x 0.1 + 30 x 0.38) / 40; a step without the count says nothing."""
    rows = [step(1, responses=10, truncated=0.1), step(2, responses=30, truncated=0.38), step(3)]
    (line,) = told(rows)
    assert line.startswith("31% of the responses were truncated")
    assert "rollout.sampling.max_new_tokens" in line
    assert told([step(1, responses=10, truncated=0.09)]) == []


def test_a_fleet_that_lost_much_but_not_all():
    (line,) = told([step(1)], rollout_pb2.Ledger(fleet="slow", accepted=100, expired=13, trained=87))
    assert line.startswith("13% of the groups of fleet slow expired before they were trained (13 of 100)")
    assert told([step(1)], rollout_pb2.Ledger(fleet="slow", accepted=100, expired=4, trained=96)) == []


def test_unscored_responses_are_told_with_their_main_reason():
    ledger = rollout_pb2.Ledger(
        fleet="one", accepted=9, trained=9, unscored_responses_by_reason={"judge": 1, "reward_timeout": 5}
    )
    (line,) = told([step(1, responses=90, unscored=0.1), step(2, responses=10, unscored=0.0)], ledger)
    assert line.startswith("9% of the responses are unscored, mostly for reward_timeout (5 of 6)")
    assert told([step(1, unscored=0.01)], ledger) == []


def test_a_reward_that_never_moved_or_fell():
    """Rewards that alternate around their mean: 10 have a standard error of 0.0333, 20 one of 0.0229."""
    flat = [step(n, reward=0.5 + 0.1 * (-1) ** n) for n in range(1, 31)]
    (line,) = told(flat)
    assert line.startswith("the reward never moved: 0.5 in the first 10 steps, 0.5 in the last 20")
    for change in (0.11, -0.11, 0.13, -0.13):  # three standard errors of the difference are 0.121
        rows = [row | {"reward": row["reward"] + (change if row["step"] > 10 else 0)} for row in flat]
        lines = told(rows)
        if change == 0.13:
            assert lines == []
        else:
            (line,) = lines
            assert line.startswith("the reward fell" if change == -0.13 else "the reward never moved")
    assert told(flat[:29]) == []  # too few to tell


def test_a_run_that_learned_nothing_is_not_told_that_its_reward_did_not_move_either():
    (line,) = told([uniform(n) for n in range(1, 41)])
    assert "nothing was learned" in line


def test_evaluations_that_failed_or_lack_scores():
    (line,) = told([step(1)], evaluates=True)
    assert "no evaluation was completed" in line
    values = {"metrics": {"mean@1": Estimate(0.5, 0.4, 0.6)}, "seconds": 1.0, "time": 1.0}
    found = [Evaluation(version=3, name="e", sampling="greedy", prompts=10, samples=4, unscored=8, **values)]
    (line,) = told([step(1)], evaluations=found, evaluates=True)
    assert line.startswith("20% of the responses in the evaluation e (greedy) of version 3 are unscored")


def test_a_last_version_that_was_not_evaluated():
    estimate = {"mean@1": Estimate(0.5, 0.4, 0.6)}
    found = [Evaluation(1.0, 3, "e", "greedy", 10, 1, 0, estimate, 1.0)]
    (line,) = told([step(1)], evaluations=found, evaluates=True, last_version=9)
    assert line.startswith("the last version, 9, was not evaluated: the newest evaluation is of version 3")
    assert told([step(1)], evaluations=found, evaluates=True, last_version=3) == []
    assert told([step(1)], evaluations=found, evaluates=True) == []  # a run that was stopped awaits none


def test_only_a_finished_run_with_a_final_evaluation_awaits_one(tmp_path: Path):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path}"])
    write_rows(run_file.directory.metrics / "evaluations.jsonl", [evaluation(3, "sort", "greedy", 0.5, 0.1)])
    history = RunHistory(tmp_path)
    history.learner.add({"kind": "version", "time": 1.0, "version": 9, "step": 9, "seconds": 0.1})
    for outcome, warned in (
        (Outcome(started=0.0, stopping=2.0, ended=3.0), True),
        (Outcome(started=0.0, stopping=2.0, ended=3.0, signal=2), False),
    ):
        assert any("was not evaluated" in line for line in summarize(run_file, history, outcome)["warnings"]) == warned


def test_a_rate_that_stays_far_below_its_ceiling():
    rows = [step(n, lr=5e-5, lr_ceiling_share=0.05, lr_active="drift", reward=n / 60) for n in range(1, 61)]
    (line,) = told(rows)
    assert line.startswith(
        "the learning rate stayed below 10% of its ceiling for the last 60 steps (5.0e-05 of 1.0e-03"
    )
    assert "learner.optimizer.lr" in line
    assert "docs/objectives.md" in line
    assert told([row | {"lr_ceiling_share": 0.3} for row in rows]) == []


def test_the_gravest_warning_is_the_first():
    rows = [uniform(1) | {"truncated": 0.5}]
    lines = told(rows, REJECTED)
    assert [line.split(":")[0].split(" ")[0] for line in lines] == ["nothing", "every", "50%"]

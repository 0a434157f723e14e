"""summary.json, compared with numbers worked out by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import phases, read_summary, seconds_per_step, summarize, weighted, write_summary
from learner.cli.view.closing_summary import print_summary
from leeway.v1 import rollout_pb2
from tests.tools.runs import DEMO, make_run, progress, step

BALANCED = rollout_pb2.Ledger(fleet="local", received=5, accepted=4, duplicate=1, trained=2, expired=1, queued=1)
UNBALANCED = rollout_pb2.Ledger(fleet="other", received=5, accepted=4, duplicate=1, trained=2, expired=1)


def outcome(**values: object) -> Outcome:
    made = Outcome(started=990.0, stopping=1004.0, ended=1006.5, ledgers=[BALANCED])
    for name, value in values.items():
        setattr(made, name, value)
    return made


def history_of(tmp_path: Path, rows: list[dict]) -> RunHistory:
    history = RunHistory(tmp_path)
    for row in rows:
        history.learner.add(row)
    return history


@pytest.fixture
def run_file() -> RunFile:
    return RunFile.read(DEMO, ["run.seed=3", "learner.objective.name=asympo"])


def test_rewards_and_staleness(tmp_path: Path, run_file: RunFile):
    # rewards 1/40, 2/40 ... 40/40: the first ten have mean 5.5/40, the last twenty 30.5/40
    rows = [step(n, reward=n / 40) for n in range(1, 41)]
    rows[0] |= {"staleness_mean": 4.0, "staleness_max": 7, "tokens": 100}  # one heavy row: (4 * 100 + 39 * 10) / 490
    summary = summarize(run_file, history_of(tmp_path, rows), outcome())
    assert summary["steps"] == 40
    assert summary["reward_first10"] == 0.1375
    assert summary["reward_last20"] == 0.7625
    assert summary["staleness_mean"] == round(790 / 490, 4)
    assert summary["staleness_max"] == 7
    assert summary["tokens_trained"] == 490
    assert (summary["groups_trained"], summary["groups_late"]) == (80, 40)
    assert (summary["objective"], summary["seed"], summary["task"]) == ("asympo", 3, "sort")


def test_each_step_is_told_under_the_objective_that_it_was_trained_with(tmp_path: Path):
    """A resume with another objective renames nothing that was trained before."""
    resumed = RunFile.read(DEMO, ["learner.objective.name=spo"])
    rows = [step(n, objective="asympo", rho=3.0) for n in range(1, 5)]
    assert summarize(resumed, history_of(tmp_path, rows), outcome())["objective"] == "asympo"
    rows += [step(5, objective="spo"), step(6, objective="spo")]
    summary = summarize(resumed, history_of(tmp_path, rows), outcome())
    assert summary["objective"] == "asympo (steps 1 to 4), spo (steps 5 to 6)"
    assert summarize(resumed, history_of(tmp_path, []), outcome())["objective"] == "spo"
    # asympo again: the steps of spo say nothing about its rho_max
    back = RunFile.read(DEMO, ["learner.objective.name=asympo"])
    rows[4]["rho"] = 0.0
    assert summarize(back, history_of(tmp_path, rows), outcome())["rho_exceeded"] == 1.0


def test_how_often_a_step_exceeded_twice_rho_max(tmp_path: Path, run_file: RunFile):
    rows = [step(1, rho=0.1), step(2, rho=0.21), step(3, rho=None), step(4, rho=0.2), step(5, rho=3.0), step(6)]
    history = history_of(tmp_path, rows)
    assert summarize(run_file, history, outcome())["rho_exceeded"] == 0.5  # 0.21 and 3.0 of four measured ones
    console = Console(width=200, file=io.StringIO())
    print_summary(console, summarize(run_file, history, outcome()), Path("runs/r"))
    assert "above twice rho_max in 50.0% of the steps" in console.file.getvalue()  # type: ignore[attr-defined]
    for free in ("learner.objective.preset=asympo-paper", "learner.objective.name=reinforce"):
        assert summarize(RunFile.read(DEMO, [free]), history, outcome())["rho_exceeded"] is None


def test_phases_wall_time_and_shares(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    summary = summarize(run_file, RunHistory(run_file.directory.metrics).poll(), outcome(), {"wall_s_total": 100.0})
    # 990 start, 995 first warm-up row, 1000 the learner is ready, 1001 first step, 1003 third step, 1006.5 the end
    assert summary["phases"] == {"start": 5.0, "warmup": 5.0, "first_groups": 1.0, "train": 2.0, "stop": 3.5}
    assert summary["wall_s"] == 16.5
    assert summary["wall_s_total"] == 116.5
    assert summary["seconds_per_step"] == 1.0
    assert summary["wait_share"] == 0.2


def test_the_first_step_after_a_start_is_not_counted_as_waiting_for_groups(tmp_path: Path, run_file: RunFile):
    start = {"kind": "start", "time": 1000.0, "epoch": 1, "resumed_step": 0}
    rows = [start, step(1, wait_s=99.0, step_s=100.0), step(2), step(3, wait_s=0.4)]
    assert summarize(run_file, history_of(tmp_path, rows), outcome())["wait_share"] == 0.3


def test_counts_of_a_whole_run(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    summary = summarize(run_file, RunHistory(run_file.directory.metrics).poll(), outcome())
    assert summary["tokens_generated"] == 36
    assert summary["versions_published"] == 4


def test_phases_of_a_resumed_run_count_this_invocation_only(tmp_path: Path):
    rows = [{"kind": "warmup", "time": 900.0}, step(1, time=950.0), {"kind": "start", "time": 993.0, "resumed_step": 1}]
    learner = history_of(tmp_path, [*rows, step(2, time=999.0)]).learner
    assert phases(learner, outcome()) == {"start": 3.0, "warmup": 0.0, "first_groups": 6.0, "train": 0.0, "stop": 7.5}


def test_a_run_that_never_trained_has_no_rewards(tmp_path: Path, run_file: RunFile):
    summary = summarize(run_file, history_of(tmp_path, []), outcome(signal=2, ledgers=None))
    assert summary["status"] == "stopped"
    assert summary["steps"] == 0
    assert summary["phases"] == {"start": 14.0, "warmup": 0.0, "first_groups": 0.0, "train": 0.0, "stop": 2.5}
    for name in (
        "reward_first10",
        "reward_last20",
        "staleness_mean",
        "staleness_max",
        "seconds_per_step",
        "ledger_balanced",
    ):
        assert summary[name] is None, name


def test_the_ledger_is_balanced_when_every_fleet_is(tmp_path: Path, run_file: RunFile):
    history = history_of(tmp_path, [step(1)])
    summary = summarize(run_file, history, outcome())
    assert summary["ledger_balanced"] is True
    assert summary["ledger"][0]["queued"] == 1
    assert summary["ledger"][0]["in_flight"] == 0
    assert summarize(run_file, history, outcome(ledgers=[BALANCED, UNBALANCED]))["ledger_balanced"] is False


def test_a_failure_is_recorded(tmp_path: Path, run_file: RunFile):
    summary = summarize(
        run_file, history_of(tmp_path, []), outcome(failure="gateway: port in use", restarts={"gateway": 5})
    )
    assert (summary["status"], summary["failure"]) == ("failed", "gateway: port in use")
    assert summary["restarts"] == {"gateway": 5}


def test_written_and_read_back(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    run = run_file.directory
    assert read_summary(run) is None
    history = RunHistory(run.metrics).poll()
    history.learner.add(step(4, reward=float("nan")))
    history.workers["worker-0"].add(progress(1004.0, 40))
    write_summary(run, summarize(run_file, history, outcome()))
    summary = read_summary(run)
    assert summary is not None
    assert summary["reward_last20"] is None  # NaN is not JSON
    assert summary["tokens_generated"] == 40
    json.loads(run.summary.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def test_median_and_weighted_mean():
    rows = [step(1, step_s=1.0), step(2, step_s=9.0), step(3, step_s=2.0)]
    assert seconds_per_step(rows) == 2.0
    assert weighted([{"a": 1.0, "w": 0}], "a", "w") is None


def test_a_mixture_is_named_by_its_labels(tmp_path: Path):
    mixture = RunFile.read(DEMO, ['rollout.task=[{name="sort", held_out=0.1}, {name="add", label="sums"}]'])
    assert summarize(mixture, history_of(tmp_path, []), outcome())["task"] == "sort + sums"

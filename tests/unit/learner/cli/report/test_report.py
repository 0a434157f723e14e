"""report.html: its contents, and that it fetches nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from learner.cli.report.report import write_report
from learner.cli.run.outcome import Outcome
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import summarize, write_summary
from leeway.v1 import rollout_pb2
from tests.tools.html_page import Page
from tests.tools.lively_run import evaluation, make_lively_run
from tests.tools.recorded import write_records
from tests.tools.runs import DEMO, make_run, recorded_sample, sample, step, write_rows

WRITTEN = "<script>alert('$name')</script>"  # by the model


def finished(directory: Path) -> RunDirectory:
    """Makes a run that has ended, with its summary."""
    run_file = make_run(directory, steps=30)
    run = run_file.directory
    ledger = rollout_pb2.Ledger(fleet="local", received=1234, accepted=1234, trained=1200, queued=34)
    outcome = Outcome(started=990.0, stopping=1031.0, ended=1032.0, ledgers=[ledger])
    write_summary(run, summarize(run_file, RunHistory(run.metrics).poll(), outcome))
    return run


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run that has ended."""
    run = finished(tmp_path_factory.mktemp("report") / "run")
    write_records(run.rollouts, [recorded_sample(sample(2000.0, 30, WRITTEN))])
    return write_report(run).read_text()


def test_it_holds_every_chart_the_ledger_samples_and_settings(html: str):
    page = Page(html)
    text = "\n".join(page.text)
    for title in (
        "Reward",
        "NLL scales",
        "rho",
        "Staleness",
        "Health",
        "Throughput",
        "Queue",
        "Versions",
        "Time per step",
    ):
        assert title in page.text, title
    assert page.tags.count("svg") == 12
    assert "1,234" in page.text
    assert "yes" in page.text
    assert "312=" in page.text
    assert "0.50 → 0.50" in page.text
    assert '"groups_per_step": 16' in text


def test_it_fetches_nothing_and_runs_nothing(html: str):
    page = Page(html)
    assert page.fetched == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", html)


def test_what_a_model_wrote_is_text_never_markup(html: str):
    page = Page(html)
    assert "script" not in page.tags
    assert WRITTEN in page.text


def test_the_report_names_the_objective_of_each_step_and_not_the_one_of_the_last_resume(tmp_path: Path):
    run = finished(tmp_path / "run")
    rows = [step(1, objective="grpo"), step(2, objective="grpo"), step(3, objective="spo")]
    write_rows(run.metrics / "learner.jsonl", rows)
    assert "objective grpo (steps 1 to 2), spo (steps 3 to 3)" in "\n".join(Page(write_report(run).read_text()).text)


def test_charts_do_not_share_ids(html: str):
    ids = Page(html).ids
    assert ids
    assert len(ids) == len(set(ids))


def test_a_run_without_a_step_has_a_report_too(tmp_path: Path):
    page = Page(write_report(make_run(tmp_path / "run", steps=1).directory).read_text())
    assert "in progress" in "".join(page.text)
    empty = make_run(tmp_path / "empty").directory
    for path in (*empty.metrics.glob("*.jsonl"), *empty.rollouts.glob("*.jsonl")):
        path.unlink()
    assert "– → –" in Page(write_report(empty).read_text()).text


def test_alarms_and_updates_are_shown_where_there_are_any(tmp_path: Path):
    run = finished(tmp_path / "run")
    rows = [step(number, growth=300.0, ballistic=0.1) for number in (31, 32)]
    alarm = {"kind": "alarm", "time": 1033.0, "step": 32, "rule": "rho", "action": "warn", "reason": "rho is 0.90"}
    back = {
        "kind": "rollback",
        "time": 1034.0,
        "step": 32,
        "rule": "rho",
        "checkpoint": "step_00000020_e0001",
        "lost": 3,
    }
    write_rows(run.metrics / "learner.jsonl", [*rows, alarm, back])
    summary = summarize(RunFile.read(run.root), RunHistory(run.metrics).poll(), Outcome(started=990.0))
    assert summary["alarms"] == [{"step": 32, "rule": "rho", "action": "warn", "reason": "rho is 0.90"}]
    assert summary["rollbacks"] == [{"step": 32, "rule": "rho", "checkpoint": "step_00000020_e0001", "lost": 3}]
    write_summary(run, summary)
    page = Page(write_report(run).read_text())
    assert "Updates" in page.text
    assert "alarm at step 32: rho is 0.90" in "\n".join(page.text)
    assert "rolled back at step 32 to step_00000020_e0001" in "\n".join(page.text)


def test_a_governed_rate_its_drift_and_averaged_versions_are_shown(tmp_path: Path):
    run = finished(tmp_path / "run")
    settings = [f"run.dir={run.root}", "learner.lr_control.mode=drift", "learner.publish.average=0.9"]
    RunFile.read(DEMO, settings).absolute().write(run.settings)
    rows = [
        step(
            number, lr=1e-5 * number, lr_scheduled=1e-3, lr_ceiling_share=1e-2 * number, drift_scale=75.0,
            drift_predicted=0.01 * number, drift_measured=0.02 if number % 4 == 0 else None, ess_share=0.9,
            gradient_cosine=0.1 if number > 1 else None,
        )
        for number in range(1, 31)
    ]  # fmt: skip
    write_rows(run.metrics / "learner.jsonl", rows)
    page = Page(write_report(run).read_text())
    text = "\n".join(page.text)
    for title in ("Learning rate and its ceiling", "Drift", "Effective sample size", "Gradient cosine"):
        assert title in page.text, title
    assert "Learning rate" not in page.text
    for words in ("ceiling", "used", "measured over 4 steps", "predicted over the age of the data", "target"):
        assert words in page.text, words
    assert "versions are averages of the weights (0.9 a step)" in text
    assert len(page.ids) == len(set(page.ids))


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run that has everything a report can show."""
    return write_report(make_lively_run(tmp_path_factory.mktemp("lively") / "run", steps=24).directory).read_text()


def test_warnings_are_at_the_top_and_sections_in_their_order(lively: str):
    assert titles(lively) == [
        "Evaluations", "What it is worth", "Reward by task and parts", "Groups", "Response lengths", "Staleness",
        "Throughput", "Time per step", "Waste and ledger", "Optimizer", "Rollouts", "Settings",
    ]  # fmt: skip
    first, cards = lively.index("22% of the responses were truncated"), lively.index("class=cards")
    assert first < cards < lively.index("<h2>")


def test_it_shows_evaluations_parts_shares_and_lengths(lively: str):
    page = Page(lively)
    for title in (
        "Evaluation of gsm8k", "Evaluation of sort", "Reward by task", "Parts of the reward of gsm8k", "Shares of groups",
        "Response length", "Length by sign of the advantage", "Truncated", "Length by finish reason", "Staleness by step",
        "Wasted tokens",
    ):  # fmt: skip
        assert title in page.text, title
    for text in ("0.200 → 0.675", "0.675 [0.625, 0.725]", "300.0 [290.0, 310.0]", "256 × 8", "length_penalty"):
        assert text in page.text, text
    assert len(page.ids) == len(set(page.ids))
    assert page.fetched == []


def test_charts_appear_only_where_there_are_numbers(html: str):
    """A run whose rows have none of the newer fields, without evaluations."""
    assert titles(html) == [
        "Reward by task and parts", "Staleness", "Throughput", "Time per step", "Waste and ledger", "Optimizer", "Rollouts",
        "Settings",
    ]  # fmt: skip


def test_a_run_without_workers_of_this_machine(tmp_path: Path):
    run = finished(tmp_path / "run")
    for path in (*run.metrics.glob("worker-*.jsonl"), *run.rollouts.glob("*.jsonl")):
        path.unlink()
    page = Page(write_report(run).read_text())
    assert "Throughput" in page.text
    assert "Rollouts" not in page.text
    assert "tokens generated by this machine's workers" in page.text


def test_a_run_without_steps_has_no_empty_charts(tmp_path: Path):
    run = make_run(tmp_path / "run").directory
    (run.metrics / "learner.jsonl").unlink()
    (run.metrics / "worker-0.jsonl").unlink()
    page = write_report(run).read_text()
    assert titles(page) == ["Waste and ledger", "Rollouts", "Settings"]
    assert "<svg" not in page


def test_a_run_in_progress_is_warned_of_what_its_steps_show(tmp_path: Path):
    run = make_run(tmp_path / "run").directory
    write_rows(run.metrics / "learner.jsonl", [step(4, truncated=0.5, responses=4)])
    assert "50% of the responses were truncated" in write_report(run).read_text()


def test_names_from_elsewhere_are_text_never_markup(tmp_path: Path):
    run = finished(tmp_path / "run")
    hostile = {WRITTEN: {"reward": 0.5, "informative": 0.5, "parts": {WRITTEN: 0.5}}, "$": {"reward": 1.0, "parts": {}}}
    rows = [step(31, tasks=hostile, tokens_wasted={WRITTEN: 5}, length_by_finish={WRITTEN: {"mean": 3.0}})]
    write_rows(run.metrics / "learner.jsonl", rows)
    results = [evaluation(version, WRITTEN, WRITTEN, 0.5, 0.1, metrics={WRITTEN: [1, 0, 2]}) for version in (0, 3)]
    write_rows(run.metrics / "evaluations.jsonl", results)
    page = Page(write_report(run).read_text())
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert f"Evaluation of {WRITTEN}" in page.text
    assert f"Parts of the reward of {WRITTEN}" in page.text

"""What is printed when a run ends."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import read_summary, summarize
from learner.cli.view.closing_summary import print_summary
from tests.tools.lively_run import make_lively_run
from tests.tools.runs import DEMO, make_run, step, write_rows


def test_the_numbers_of_a_run_that_ended(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    outcome = Outcome(started=990.0, stopping=1004.0, ended=1006.0, restarts={"gateway": 1, "redis": 0})
    output = Console(file=io.StringIO(), width=100, color_system=None)
    summary = summarize(run_file, RunHistory(run_file.directory.metrics).poll(), outcome)
    print_summary(output, summary, run_file.directory.root)
    assert isinstance(output.file, io.StringIO)
    text = output.file.getvalue()
    assert "3 in 16s (start 5s · warmup 5s · first groups 1s · train 2s · stop 3s)" in text
    assert "0.50 first 10 steps → 0.50 last 20, on ever new prompts" in text
    assert "gateway 1" in text
    assert "redis" not in text
    assert "what it is worth" not in text  # it has no version on disk
    assert "ceiling" not in text  # nothing bounds its rate
    assert "average" not in text


def test_a_governed_run_says_what_became_of_its_rate_and_that_versions_are_averages(tmp_path: Path):
    make_run(tmp_path / "run")
    averaged = [f"run.dir={tmp_path / 'run'}", "learner.publish.average=0.9"]
    run_file = RunFile.read(DEMO, averaged)
    rows = [
        step(1, lr=8e-6, lr_ceiling_share=0.02),
        step(2, lr=1e-5, lr_ceiling_share=0.025, drift_measured=0.04),
        step(3, lr=1e-4, lr_ceiling_share=0.25, drift_measured=0.06),
    ]
    write_rows(run_file.directory.metrics / "learner.jsonl", rows)
    outcome = Outcome(started=990.0, stopping=1004.0, ended=1006.0)
    summary = summarize(run_file, RunHistory(run_file.directory.metrics).poll(), outcome)
    assert summary["average"] == 0.9
    assert summary["governed"] == {"first": 8e-6, "last": 1e-4, "share": 0.25, "bounded": 1.0, "drift": 0.05}
    output = Console(file=io.StringIO(), width=160, color_system=None)
    print_summary(output, summary, run_file.directory.root)
    assert isinstance(output.file, io.StringIO)
    text = output.file.getvalue()
    assert (
        "8.0e-06 → 1.0e-04, 25% of its ceiling; below it in 100% of the steps; measured drift 0.050 nats/token" in text
    )
    assert "4 published, each an average of the weights (0.9 a step)" in text


def test_warnings_come_first_then_the_evaluations_the_numbers_and_what_it_is_worth(tmp_path: Path):
    run_file = make_lively_run(tmp_path / "run")
    output = Console(file=io.StringIO(), width=80, color_system=None)
    summary = read_summary(run_file.directory)
    assert summary is not None
    print_summary(output, summary, run_file.directory.root)
    assert isinstance(output.file, io.StringIO)
    text = output.file.getvalue()
    order = ("22% of the responses were truncated", "before and after", "+0.475", "sampled reward", "what it is worth")
    assert [text.find(words) for words in order] == sorted(text.find(words) for words in order)
    assert all(words in text for words in order)

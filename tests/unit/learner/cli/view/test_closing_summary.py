"""What is printed when a run ends."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import read_summary, summarize
from learner.cli.view.closing_summary import print_summary
from tests.tools.lively_run import make_lively_run
from tests.tools.runs import make_run


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

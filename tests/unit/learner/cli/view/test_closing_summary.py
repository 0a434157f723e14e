"""What is printed when a run ends."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import summarize
from learner.cli.view.closing_summary import first_and_last, print_samples, print_summary, shorten
from tests.tools.runs import make_run, sample


def test_samples_before_and_after():
    rows = [sample(1.0, 0, "a"), sample(2.0, 0, "b"), sample(3.0, 4, "c"), sample(4.0, 9, "d"), sample(5.0, 7, "e")]
    before, after = first_and_last(rows, 2)
    assert [row["response"] for row in before] == ["a", "b"]
    assert [row["response"] for row in after] == ["e", "d"]
    assert first_and_last(rows[:2], 2)[1] == []
    assert first_and_last([], 2) == ([], [])


def test_the_summary_and_samples_of_a_run_that_ended(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    outcome = Outcome(started=990.0, stopping=1004.0, ended=1006.0, restarts={"gateway": 1, "redis": 0})
    output = Console(file=io.StringIO(), width=100, color_system=None)
    print_summary(output, summarize(run_file, RunHistory(run_file.directory.metrics).poll(), outcome))
    print_samples(output, run_file.directory)
    assert isinstance(output.file, io.StringIO)
    text = output.file.getvalue()
    assert "3 in 16s (start 5s · warmup 5s · first groups 1s · train 2s · stop 3s)" in text
    assert "0.50 first 10 → 0.50 last 20" in text
    assert "gateway 1" in text
    assert "redis" not in text
    assert "before (version 0)" in text
    assert "312= 999" in text
    assert "after (version 3)" in text


def test_a_long_sample_is_shown_without_its_middle():
    row = {"prompt": "user: 71", "response": "assistant: lookup\n" + "x" * 100 + "\nassistant: 3357"}
    text = shorten(row, 40)
    assert len(text) == 40
    assert text.startswith("user: 71 assistant: ")
    assert text.endswith("x⏎assistant: 3357")
    assert shorten({"prompt": "12=", "response": "12"}) == "12= 12"

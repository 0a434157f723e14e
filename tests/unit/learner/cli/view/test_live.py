"""The live table and the plain lines."""

from __future__ import annotations

import io
import time
from pathlib import Path

from rich.console import Console

from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.view.live import (
    LiveDisplay,
    PlainDisplay,
    ProcessView,
    RunView,
    make_display,
    plain_line,
    render,
    time_left,
    training_rate,
)
from learner.queue.change_journal import InForce
from tests.tools.runs import DEMO, make_run, progress, step, write_rows

PROCESSES = [ProcessView("gateway", "running", 12, 1, 5.0), ProcessView("worker-0", "running", 13, 0, 75.0)]


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def text_of(output: Console) -> str:
    assert isinstance(output.file, io.StringIO)
    return output.file.getvalue()


def shown(run_file: RunFile) -> str:
    output = console()
    output.print(render(view(run_file), run_file))
    return text_of(output)


def view(run_file: RunFile, phase: str = "training", processes: list[ProcessView] | None = None) -> RunView:
    return RunView(phase, processes or PROCESSES, RunHistory(run_file.directory.metrics).poll(), time.time() - 65)


def test_the_table_shows_what_was_promised(tmp_path: Path):
    run_file = make_run(tmp_path / "run", steps=30)
    output = console()
    output.print(render(view(run_file), run_file))
    text = text_of(output)
    for words in (
        "reward", "version", "staleness", "queue depth", "tokens/s generated", "tokens/s trained", "NLL of positives",
        "NLL of negatives", "entropy", "gradient norm", "step 30 of 30", "listening on 127.0.0.1:50051", "starting 1m15s",
    ):  # fmt: skip
        assert words in text, words


def test_an_evaluator_says_what_it_waits_for(tmp_path: Path):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path}"])
    for phase, words in (("training", "waiting for the end of training"), ("evaluating", "evaluating versions")):
        output = console()
        output.print(render(view(run_file, phase, [ProcessView("evaluator", "running", 14, 0, 5.0)]), run_file))
        assert words in text_of(output)


def test_the_table_before_anything_is_known(tmp_path: Path):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path}"])
    output = console()
    output.print(render(view(run_file, "starting"), run_file))
    assert "step 0 of" in text_of(output)


def test_a_step_without_a_scored_response_leaves_the_rewards_as_they_were(tmp_path: Path):
    run_file = make_run(tmp_path / "run", steps=30)
    write_rows(run_file.directory.metrics / "learner.jsonl", [step(31, reward=None)])
    output = console()
    output.print(render(view(run_file), run_file))
    assert "0.5" in text_of(output)
    assert "reward 0.50 → +0.00" in plain_line(view(run_file), run_file)


def test_a_line_holds_the_numbers(tmp_path: Path):
    run_file = make_run(tmp_path / "run", steps=30)
    line = plain_line(view(run_file), run_file)
    assert line.startswith("step 30/30 · version 30 · reward 0.50 → +0.00 · staleness 1.00 max 1 · queue 3 · ")
    assert "nll of positives 0.50 / negatives 1.50" in line


def test_a_governed_rate_is_shown_with_its_share_of_the_ceiling(tmp_path: Path):
    run_file = make_run(tmp_path / "run", steps=30)
    assert "learning rate" not in shown(run_file)
    assert "ceiling" not in plain_line(view(run_file), run_file)
    metrics = run_file.directory.metrics / "learner.jsonl"
    write_rows(metrics, [step(30, lr=3e-4, lr_ceiling_share=0.3, lr_active="drift")])
    assert "3.0e-04  30% of its ceiling" in shown(run_file)
    assert " · lr 3.0e-04, 30% of its ceiling · " in f"{plain_line(view(run_file), run_file)} · "
    write_rows(metrics, [step(31, lr=0.0, lr_active="hold")])
    assert "0.0e+00  held by an alarm" in shown(run_file)


def test_plain_lines_come_with_changes_and_otherwise_seldom(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    output = console()
    display = PlainDisplay(output, run_file)
    for _ in range(5):
        display.update(view(run_file))
    older = [ProcessView("gateway", "running", 12, 1, 9.0), ProcessView("worker-0", "running", 13, 0, 79.0)]
    display.update(view(run_file, processes=older))  # only an age has changed
    lines = text_of(output).splitlines()
    assert len(lines) == 2
    assert "phase: training, gateway: listening on 127.0.0.1:50051, worker-0: starting 1m15s" in lines[0]
    assert "step 3/3" in lines[1]
    display.update(view(run_file, processes=[ProcessView("gateway", "restarting", None, 2, 0.0), PROCESSES[1]]))
    assert text_of(output).splitlines()[2].endswith("gateway: restarting")


def test_a_learner_of_unknown_age_is_at_what_it_recorded_last(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    learner = ProcessView("learner", "running", 14, 0, None)
    output = console()
    output.print(render(view(run_file, processes=[learner]), run_file))
    row = next(line for line in text_of(output).splitlines() if line.startswith("learner"))
    assert row.split() == ["learner", "training", "14"]


def test_a_terminal_gets_the_table_and_a_pipe_the_lines(tmp_path: Path):
    run_file = make_run(tmp_path / "run")
    assert isinstance(make_display(console(), run_file), PlainDisplay)
    output = console(terminal=True)
    with make_display(output, run_file) as display:
        assert isinstance(display, LiveDisplay)
        display.update(view(run_file))
    assert "gradient norm" in text_of(output)


def test_the_time_left_follows_the_median_time_per_step():
    rows = [step(10, time=100.0), step(14, time=102.0)]  # half a second a step
    assert time_left(rows, 20) == 3.0
    assert time_left([step(9, time=99.5), *rows, step(15, time=902.5)], 20) == 0.5 * 5  # a gap does not count
    assert time_left(rows[:1], 20) is None
    assert training_rate(rows) == 10 / 2.0
    assert training_rate(rows[:1]) is None


def test_a_run_that_makes_no_steps_shows_no_rates_of_the_past_and_no_time_left(tmp_path: Path):
    run_file = make_run(tmp_path / "run", steps=30)
    run_file = run_file.model_copy(update={"learner": run_file.learner.model_copy(update={"steps": 40})})
    learner, now = ProcessView("learner", "running", 14, 0, None), time.time()
    metrics = run_file.directory.metrics
    write_rows(metrics / "learner.jsonl", [step(number, time=now - 200 + number) for number in range(31, 36)])
    write_rows(metrics / "worker-0.jsonl", [progress(now + 599, 50), progress(now + 600, 90)])
    moving = [*(step(number, time=now + 600 + 2 * number) for number in range(36, 40))]

    def shown() -> tuple[str, str]:
        output = console()
        output.print(render(view(run_file, processes=[learner]), run_file))
        return text_of(output), plain_line(view(run_file, processes=[learner]), run_file)

    for text in shown():
        assert "no step for " in text
        assert "left" not in text
    assert "40 generated – trained" in shown()[1]
    write_rows(
        metrics / "learner.jsonl", [{"kind": "activity", "time": now - 100, "what": "groups", "since": now - 105}]
    )
    for text in shown():
        assert "waiting for groups for " in " ".join(text.split())
    write_rows(metrics / "learner.jsonl", moving)
    for text in shown():
        assert "waiting" not in text
        assert "left" in text


def test_what_operators_have_changed_is_shown_and_a_pause_is_no_stall(tmp_path: Path):
    run_file = make_run(tmp_path / "r", steps=3)
    since = time.time() - 1000
    paused = {"kind": "activity", "time": since + 5, "what": "paused", "since": since}
    write_rows(run_file.directory.metrics / "learner.jsonl", [paused])
    history = RunHistory(run_file.directory.metrics).poll()
    assert history.learner.phase(0.0) == "paused"
    in_force = InForce({"optimizer.lr": "1e-05"}, frozenset({"paris"}), frozenset(), True)
    view = RunView(history.learner.phase(0.0), PROCESSES, history, since, in_force)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render(view, run_file))
    text = captured.get()
    for words in ("paused: by an operator", "changed settings: optimizer.lr=1e-05", "drained fleets: paris"):
        assert words in text
        assert words in plain_line(view, run_file)
    assert "(since " not in text
    # Once it trains again, it says so.
    write_rows(run_file.directory.metrics / "learner.jsonl", [step(4, time=time.time())])
    assert RunHistory(run_file.directory.metrics).poll().learner.phase(0.0) == "training"

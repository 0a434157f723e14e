"""Charts as SVG: well-formed, self-contained, with text as text, whatever it is."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from learner.cli.report.charts import evaluations, flow, groups, lengths, optimization, reward, staleness
from learner.cli.report.charts.drawing import Plot, draw
from learner.cli.run.evaluations import read_evaluations
from learner.cli.run.run_history import RunHistory, WorkerHistory
from tests.tools.lively_run import evaluation, make_lively_run
from tests.tools.runs import progress, step, write_rows

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "$x_{$",
    "_hidden",
    "</svg><script>alert(1)</script>",
    "a\x00b\x1b[2J",
    "x" * 500,
    "$$",
    "\\frac{",
    "%s & <b>",
]


def words(plot: Plot) -> list[str]:
    """Every text of a chart; fails if it is not well-formed, or if drawing it warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = ElementTree.fromstring(draw("chart", plot))
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def every_chart(history: RunHistory, metrics: object) -> dict[str, Plot]:
    rows = list(history.learner.steps.values())
    return {
        "reward": reward.reward(rows), "by_task": reward.by_task(rows), "parts": reward.parts(rows, "gsm8k"),
        "shares": groups.shares(rows), "informative": groups.informative(rows),
        "informative_by_task": groups.informative_by_task(rows), "lengths": lengths.lengths(rows),
        "by_sign": lengths.by_sign(rows), "by_finish": lengths.by_finish(rows), "truncated": lengths.truncated(rows),
        "staleness": staleness.staleness(rows), "over_steps": staleness.over_steps(rows),
        "scales": optimization.scales(rows), "rho": optimization.rho(rows), "health": optimization.health(rows),
        "updates": optimization.updates(rows), "learning_rate": optimization.learning_rate(rows),
        "throughput": flow.throughput(history, 0.0), "queue": flow.queue_depth(rows, 0.0, 16, 4),
        "versions": flow.versions(history, 0.0), "step_time": flow.step_time(rows), "waste": flow.waste(rows),
        "evaluations": evaluations.by_version(metrics),  # type: ignore[arg-type]
    }  # fmt: skip


def test_every_chart_of_a_whole_run_is_well_formed(tmp_path: Path):
    run = make_lively_run(tmp_path / "run", steps=4).directory
    for name, plot in every_chart(RunHistory(run.metrics).poll(), read_evaluations(run.metrics)).items():
        assert words(plot), name


def test_a_chart_has_its_text_as_text():
    assert "mean sampled reward" in words(reward.reward([step(number) for number in range(1, 20)]))


def test_names_from_elsewhere_are_shown_as_they_are():
    """A name with dollars is no formula, one with an underscore is not hidden, markup is text."""
    values = {name: {"reward": 0.5, "informative": 0.5, "parts": dict.fromkeys(HOSTILE, 0.5)} for name in HOSTILE}
    rows = [step(n, tasks=values) for n in range(1, 4)]
    for plot in (reward.by_task(rows), reward.parts(rows, HOSTILE[0])):
        found = " ".join(words(plot))
        for name in HOSTILE:
            plain = "".join(one if one.isprintable() else "?" for one in name)
            assert plain[:20] in found, name


def test_every_chart_with_names_from_elsewhere_takes_them(tmp_path: Path):
    name = HOSTILE[0]
    values = {"reward": 0.5, "informative": 0.5}
    rows = [step(1, tasks={name: values}, tokens_wasted={name: 3}, length_by_finish={name: {"mean": 1}})]
    history = RunHistory(tmp_path)
    history.workers[name] = WorkerHistory(progress=[progress(1.0, 1)], refits=[{"time": 1.0, "version": 0}])
    write_rows(tmp_path / "evaluations.jsonl", [evaluation(1, name, name, 0.5, 0.1)])
    plots = [
        groups.informative_by_task(rows), flow.waste(rows), lengths.by_finish(rows), flow.throughput(history, 0.0),
        flow.versions(history, 0.0), evaluations.by_version(read_evaluations(tmp_path)),
    ]  # fmt: skip
    for plot in plots:
        assert "$x_{$" in " ".join(words(plot)) or "$x {$" in " ".join(words(plot))

"""report.html: its contents, and that it fetches nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from learner.cli.report import charts
from learner.cli.report.report import write_report
from learner.cli.run.outcome import Outcome
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import LearnerHistory, RunHistory
from learner.cli.run.summary import summarize, write_summary
from leeway.v1 import rollout_pb2
from tests.tools.runs import make_run, sample, step, write_rows

FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


class Page(HTMLParser):
    """A parsed page: its text, ids, tags, and whatever a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in FETCHING and not (value or "").startswith("#")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


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
    write_rows(run.state / "worker-0.samples.jsonl", [sample(2000.0, 30, WRITTEN)])
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
    assert page.tags.count("svg") == 10
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
    for path in (*empty.metrics.glob("*.jsonl"), *empty.state.glob("*.jsonl")):
        path.unlink()
    assert "– → –" in Page(write_report(empty).read_text()).text


def test_each_chart_is_well_formed_svg_with_its_text_as_text():
    learner = LearnerHistory()
    for number in range(1, 20):
        learner.add(step(number))
    root = ElementTree.fromstring(charts.draw("reward", charts.reward(learner)))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "mean sampled reward" in words


def test_staleness_is_counted_in_tokens():
    learner = LearnerHistory()
    learner.add(step(1, staleness_mean=1.2, tokens=10))
    learner.add(step(2, staleness_mean=2.6, tokens=30))
    learner.add(step(3, staleness_tokens={"0": 5, "2": 7}, tokens=12))
    assert charts.staleness_tokens(learner) == {0: 5, 1: 10, 2: 7, 3: 30}


def test_rolling_mean():
    assert charts.rolling([1.0, 2.0, 3.0, 5.0], 2) == [1.0, 1.5, 2.5, 4.0]


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

"""`leeway compare`: numbers of runs side by side, the settings that differ, and the page of their curves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.report.comparison import differing, numbers, read_runs, table_rows
from learner.cli.report.comparison_page import write_comparison
from learner.cli.run.run_directory import RunError
from learner.cli.run.run_file import RunFile
from tests.tools.html_page import Page
from tests.tools.lively_run import evaluation, make_lively_run
from tests.tools.runs import make_run, step, write_rows

HOSTILE = "<script>alert('$x_{$')</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of 24 steps and one of 12, which differ in seed and length."""
    root = tmp_path_factory.mktemp("runs")
    make_lively_run(root / "one", steps=24)
    make_lively_run(root / "two", steps=12, seed=5)
    return [root / "one", root / "two"]


def test_the_numbers_of_a_run_worked_by_hand(tmp_path: Path):
    run = make_run(tmp_path / "run").directory  # 3 steps of 10 tokens, 2 groups and 1 s; 36 tokens generated until 1003
    rows = [step(4, reward=0.9, truncated=0.5, expired=2, tokens=30, step_s=3.0, staleness_mean=3.0, staleness_max=5)]
    write_rows(run.metrics / "learner.jsonl", rows)
    write_rows(run.metrics / "evaluations.jsonl", [evaluation(n, "e", "greedy", n / 10, 0.1) for n in (0, 4)])
    make_run(tmp_path / "other")
    found = numbers(read_runs([run.root, tmp_path / "other"])[0])
    assert (found["steps"], found["status"]) == (4, "not finished")
    assert found["reward_first10"] == pytest.approx(0.6)
    assert found["tokens_trained"] == 60
    assert found["tokens_generated"] == 36
    assert found["tokens_per_s_generated"] == 12.0  # from 12 to 36 in two seconds
    assert found["tokens_per_s_trained"] == 10.0  # without the first step after the start: 50 tokens in 5 s
    assert found["seconds_per_step"] == 1.0
    assert found["staleness_mean"] == 2.0  # (30 x 1 + 30 x 3) / 60
    assert found["staleness_max"] == 5
    assert found["truncated"] == 0.5
    assert found["expired"] == 0.2  # 2 of 8 + 2
    assert found["evaluations"] == [
        {"name": "e", "sampling": "greedy", "metric": "mean@1", "version": 4, "prompts": 256, "samples": 1,
         "value": 0.4, "low": 0.4 - 0.1, "high": 0.4 + 0.1}
    ]  # fmt: skip


def test_only_settings_that_differ_are_shown(tmp_path: Path):
    for name, changes in (("a", ["run.seed=1"]), ("b", ["run.seed=2", "learner.optimizer.lr=0.5"])):
        run_file = RunFile.read(make_run(tmp_path / name).directory.root, changes)
        run_file.absolute().write(run_file.directory.settings)
    settings = json.loads((tmp_path / "b" / "run.json").read_text())
    settings["extra"] = {"key": True}
    (tmp_path / "b" / "run.json").write_text(json.dumps(settings))
    found = differing(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert found["run.seed"] == ["1", "2"]
    assert found["learner.optimizer.lr"][1] == "0.5"
    assert found["extra.key"] == ["–", "true"]
    assert set(found) == {"run.seed", "learner.optimizer.lr", "extra.key"}


def test_runs_of_different_lengths_and_without_anything(runs: list[Path], tmp_path: Path):
    empty = make_run(tmp_path / "empty").directory
    for path in empty.metrics.glob("*.jsonl"):
        path.unlink()
    compared = read_runs([*runs, empty.root])
    lines = dict(table_rows([numbers(one) for one in compared]))
    assert lines["steps"] == ["24", "12", "0"]
    assert lines["sampled reward, last 20"][2] == "–"
    assert lines["mean@1 on gsm8k, greedy"][2] == "–"
    assert lines["expired groups"] == ["24.3%", "38.0%", "–"]  # of the ledgers: 130 of 534 and of 342
    write_comparison(compared, tmp_path / "out" / "page.html")
    assert "Sampled reward" in Page((tmp_path / "out" / "page.html").read_text()).text


def test_the_page_overlays_curves_and_fetches_nothing(runs: list[Path], tmp_path: Path):
    page_path = tmp_path / "page.html"
    write_comparison(read_runs(runs), page_path)
    text = page_path.read_text()
    page = Page(text)
    assert page.fetched == []
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Numbers", "Settings that differ", "Evaluations", "Curves"]
    for title in (
        "gsm8k, greedy",
        "Sampled reward",
        "Sampled reward by tokens",
        "Response length",
        "Truncated",
        "run.seed",
    ):
        assert title in page.text, title
    assert [text.count(f">{name}</text>") for name in ("one", "two")] == [page.tags.count("svg")] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_what_runs_contain_is_text(runs: list[Path], tmp_path: Path):
    results = [evaluation(version, HOSTILE, "$", 0.5, 0.1) for version in (0, 1)]
    run = make_run(tmp_path / "<b>$run$").directory
    write_rows(run.metrics / "evaluations.jsonl", results)
    settings = json.loads(run.settings.read_text()) | {HOSTILE: HOSTILE}
    run.settings.write_text(json.dumps(settings))
    write_comparison(read_runs([runs[0], run.root]), tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert "<b>$run$" in page.text


def test_runs_with_one_name_are_called_by_their_directories(runs: list[Path], tmp_path: Path):
    make_run(tmp_path / "one")
    assert [one.label for one in read_runs([runs[0], tmp_path / "one"])] == [str(runs[0]), str(tmp_path / "one")]
    assert [one.label for one in read_runs(runs)] == ["one", "two"]


def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path):
    for given in ([runs[0]], [runs[0], runs[0]]):
        with pytest.raises(RunError, match="two different runs or more"):
            read_runs(given)
    with pytest.raises(RunError, match="not a run directory"):
        read_runs([runs[0], tmp_path])
    broken = make_run(tmp_path / "broken").directory
    broken.settings.write_text("{")
    with pytest.raises(RunError, match=r"run\.json: damaged"):
        read_runs([runs[0], broken.root])


def test_the_command_prints_a_table_and_writes_the_page(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert result.exit_code == 0, result.output
    assert "curves: compare.html" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert (tmp_path / "compare.html").is_file()


def test_json_has_the_numbers_and_writes_no_page(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--json"])
    found = json.loads(result.output)
    assert [row["steps"] for row in found["runs"]] == [24, 12]
    assert found["settings"]["run.seed"] == ["0", "5"]
    assert list(tmp_path.iterdir()) == []

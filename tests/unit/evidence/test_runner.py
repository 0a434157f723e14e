"""Running cells: end to end in a process of its own, resumed, stopped by the clock, failures counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.evidence import __main__ as program
from tests.evidence.cell import Cell
from tests.evidence.figures import law_figure, staleness_figure
from tests.evidence.grid import Part
from tests.evidence.law import law_curves
from tests.evidence.results import Results
from tests.evidence.runner import Runner
from tests.unit.evidence.test_results import row

_TINY = Cell(task="sumto", objective="grpo", lr=1e-3, staleness=2, average=0.9, governed=True, steps=3, prompts=4)


class _Lines(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


def test_a_tiny_run_end_to_end_is_kept_and_not_made_again(cache: Path):
    results, lines = Results(cache / "results", cache / "none"), _Lines()
    Runner(results, cache, 1, lines).run([_TINY])
    written = json.loads(results.path(_TINY).read_text())
    assert written["cell"] == _TINY.settings
    assert {len(curve) for curve in written["curves"].values()} == {3}
    assert 0 <= written["final"] <= 1
    assert 0 <= written["greedy"] <= 1
    assert lines[-1].startswith("[1/1] sumto S=2 grpo both")

    before = results.path(_TINY).stat().st_mtime_ns
    again = _Lines()
    Runner(Results(cache / "results", cache / "none"), cache, 1, again).run([_TINY])
    assert again == ["1 runs, 1 of them known already"]
    assert results.path(_TINY).stat().st_mtime_ns == before


def test_nothing_is_started_when_the_time_is_over(tmp_path: Path):
    results = Results(tmp_path, tmp_path / "none")
    Runner(results, tmp_path, 2, _Lines()).run([_TINY], limit_s=0)
    assert _TINY not in results


def test_a_run_that_fails_is_told_and_the_others_go_on(cache: Path):
    refused = _TINY.model_copy(update={"constants": {"spo_alpha": 0.5}})  # grpo does not read it
    results, lines = Results(cache / "results", cache / "none"), _Lines()
    runner = Runner(results, cache, 1, lines)
    runner.run([refused, _TINY])
    assert runner.failed == [refused]
    assert _TINY in results
    assert "FAILED" in lines[1]


def test_ctrl_c_ends_it_and_says_how_to_go_on(cache: Path):
    command = [sys.executable, "-m", "tests.evidence", "--short", "--jobs", "1", "--cache", str(cache)]
    options = {"cwd": program.ROOT, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "27 runs, 0 of them known already\n"
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on from there" in rest


def test_the_report_writes_page_results_and_figures(tmp_path: Path):
    cells = [_TINY.model_copy(update={"seed": seed}) for seed in range(3)]
    for cell in cells:
        (tmp_path / f"{cell.key}.json").write_text(json.dumps(row(cell)))
    part = Part("core", "Objectives", tuple(cells))
    program.report([part], Results(tmp_path, tmp_path / "none"), tmp_path / "out", tmp_path / "evidence.md")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "staleness.svg"}
    assert "0.50 [0.50, 0.50]" in (tmp_path / "evidence.md").read_text()


def test_figures_are_the_same_bytes_for_the_same_results(tmp_path: Path):
    cells = [_TINY.model_copy(update={"seed": seed, "lr": 1e-3 * 2**seed, "average": 0.0}) for seed in range(3)]
    for cell in cells:
        (tmp_path / f"{cell.key}.json").write_text(json.dumps(row(cell)))
    results = Results(tmp_path, tmp_path / "none")
    for name in ("a", "b"):
        staleness_figure(cells, results, tmp_path / f"{name}-staleness.svg")
        law_figure(law_curves(cells, results), tmp_path / f"{name}-law.svg")
    for figure in ("staleness", "law"):
        assert (tmp_path / f"a-{figure}.svg").read_bytes() == (tmp_path / f"b-{figure}.svg").read_bytes()

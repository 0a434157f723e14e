"""Results: whole files, a compact file that says as much, curves that are thinned by means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evidence.cell import Cell
from tests.evidence.results import Results

_CELL = Cell(task="sort", objective="spo", lr=1e-3, staleness=4, seed=1)


def row(cell: Cell, final: float = 0.5, steps: int = 40) -> dict[str, Any]:
    """The result of a run whose reward rises evenly to ``final``."""
    numbers = {"first": 0.1, "final": final, "area": 0.3, "greedy": 0.6, "sampled": 0.4, "skipped": 0, "cpu_s": 9.0}
    curve = [final * (step + 1) / steps for step in range(steps)]
    return {"cell": cell.settings, **numbers, "curves": {"reward": curve, "rho": [None, *curve[1:]]}}


def test_a_result_is_found_in_the_cache_and_in_the_compact_file(tmp_path: Path):
    first = Results(tmp_path / "cache", tmp_path / "compact.json")
    assert _CELL not in first
    assert first.take_in(_CELL) is None
    first.path(_CELL).parent.mkdir()
    first.path(_CELL).write_text(json.dumps(row(_CELL)))
    assert first.take_in(_CELL) is not None
    first.write(tmp_path / "compact.json", [_CELL])
    again = Results(tmp_path / "nothing", tmp_path / "compact.json")
    assert again.get(_CELL) == first.get(_CELL) == Results(tmp_path / "cache", tmp_path / "none").get(_CELL)


def test_curves_are_means_of_equal_parts_and_leave_out_what_was_not_measured(tmp_path: Path):
    results = Results(tmp_path, tmp_path / "none")
    results.path(_CELL).write_text(json.dumps(row(_CELL)))
    result = results.take_in(_CELL)
    assert result is not None
    reward, rho = result.curves["reward"], result.curves["rho"]
    assert (len(reward), len(rho)) == (20, 5)
    assert reward[0] == pytest.approx(0.5 * 1.5 / 40, abs=1e-4)
    assert rho[0] == pytest.approx(0.5 * 5 / 40, abs=1e-4)  # mean of 2/40 ... 8/40


def test_the_compact_file_has_a_line_for_each_run_in_the_order_of_the_grid(tmp_path: Path):
    cells = [_CELL.model_copy(update={"seed": seed}) for seed in (5, 2, 9)]
    results = Results(tmp_path / "cache", tmp_path / "none")
    for cell in cells:
        results.path(cell).parent.mkdir(exist_ok=True)
        results.path(cell).write_text(json.dumps(row(cell)))
        results.take_in(cell)
    results.write(tmp_path / "compact.json", cells)
    text = (tmp_path / "compact.json").read_text()
    assert [one["cell"]["seed"] for one in json.loads(text)] == [5, 2, 9]
    assert len(text.splitlines()) == 5


def test_a_thousand_runs_fit_into_a_megabyte(tmp_path: Path):
    results = Results(tmp_path, tmp_path / "none")
    curve = [0.123456789 * step for step in range(200)]
    names = ("reward", "entropy", "nll_positive", "nll_negative", "rho", "grad_norm", "drift", "drift_scale", "lr", "u")
    big = Cell(task="sort", objective="asympo", constants={"advantage": "std", "rho_max": 0.1}, lr=1e-3, average=0.9,
               governed=True, seed=1)  # fmt: skip
    results.path(big).write_text(json.dumps(row(big) | {"curves": dict.fromkeys(names, curve)}))
    results.take_in(big)
    results.write(tmp_path / "compact.json", [big])
    assert len((tmp_path / "compact.json").read_text()) < 1000

"""Tables: means, differences with their verdicts, and what is missing by name."""

from __future__ import annotations

import json
from pathlib import Path

from tests.evidence.cell import Cell
from tests.evidence.grid import CEILING, TUNED, Part, cell
from tests.evidence.page import gains, page, verdicts
from tests.evidence.results import Results
from tests.evidence.table import Comparison, Variant, differences, means, not_run
from tests.unit.evidence.test_results import row

_FINALS = {("asympo", 16): 0.5, ("asympo", 64): 0.8, ("spo", 16): 0.7, ("spo", 64): 0.6}


def _results(path: Path, cells: list[Cell]) -> Results:
    """Results of runs that end where the objective and the staleness say, a hundredth higher for each seed."""
    for one in cells:
        final = next(value for known, value in _FINALS.items() if known == (one.objective, one.staleness))
        final += one.seed / 100
        (path / f"{one.key}.json").write_text(json.dumps(row(one, final)))
    return Results(path, path / "none")


class _Case:
    """Three seeds of the default and of SPO under control; the second's seed 2 at a staleness of 64 was not run."""

    def __init__(self, path: Path) -> None:
        self.cells = [
            cell(name, arm, lr, "sort", lag, seed)
            for seed in range(3)
            for lag in (16, 64)
            for name, arm, lr in (("asympo", "plain", TUNED), ("spo", "both", CEILING))
        ]
        run = [one for one in self.cells if not (one.objective == "spo" and one.staleness == 64 and one.seed == 2)]
        self.results = _results(path, run)
        self.comparison = Comparison(self.cells, self.results)
        self.base = Variant("asympo, plain, 0.00025")
        self.part = Part("core", "Objectives", tuple(self.cells))


def test_means_have_intervals_the_best_is_bold_and_missing_seeds_are_told(tmp_path: Path):
    case = _Case(tmp_path)
    lines = means(case.comparison).splitlines()
    assert lines[0] == "|  | sort S=16 | sort S=64 |"
    assert lines[2] == "| asympo, plain, 0.00025 | 0.51 [0.50, 0.52] | **0.81 [0.80, 0.82]** |"
    assert lines[3] == "| spo, both, 0.001 | **0.71 [0.70, 0.72]** | 0.60 [0.60, 0.61] (n=2) |"


def test_differences_are_paired_and_a_verdict_needs_three_seeds(tmp_path: Path):
    case = _Case(tmp_path)
    last = differences(case.comparison, case.base).splitlines()[-1]
    assert last == "| spo, both, 0.001 | better +0.20 [+0.20, +0.20] | -0.20 [-0.20, -0.20] |"


def test_what_the_control_changes_is_paired_within_an_objective(tmp_path: Path):
    cells = [
        cell("spo", arm, lr, "sort", 16, seed) for seed in range(3) for arm, lr in (("plain", TUNED), ("both", CEILING))
    ]
    lines = gains(Comparison(cells, _results(tmp_path, cells)), 200).splitlines()
    assert lines[2:] == ["| spo, minus constant 0.00025 | +0.00 [+0.00, +0.00] |", "| spo, minus constant 0.001 | - |"]


def test_one_seed_has_no_interval(tmp_path: Path):
    cells = [cell("spo", arm, CEILING, "sort", 16, 0) for arm in ("plain", "both")]
    comparison = Comparison([*cells, cells[0].model_copy(update={"seed": 1})], _results(tmp_path, cells))
    assert means(comparison).splitlines()[2] == "| spo, plain, 0.001 | **0.70 (n=1)** |"
    assert differences(comparison, Variant("spo, plain, 0.001")).splitlines()[2] == "| spo, both, 0.001 | +0.00 (n=1) |"


def test_losers_are_named_like_winners(tmp_path: Path):
    case = _Case(tmp_path)
    assert verdicts(case.comparison, case.base).splitlines() == [
        "- Better than asympo, plain, 0.00025: spo, both, 0.001 (sort S=16).",
        "- Worse than asympo, plain, 0.00025: none.",
    ]
    assert verdicts(case.comparison, Variant("spo, both, 0.001")).splitlines()[1] == (
        "- Worse than spo, both, 0.001: asympo, plain, 0.00025 (sort S=16)."
    )


def test_what_was_not_run_is_named(tmp_path: Path):
    case = _Case(tmp_path)
    later = Part("long", "600 steps", (cell("grpo", "both", CEILING, "add", 16, 0, steps=600),))
    text = not_run([case.part, later], case.results)
    assert text.splitlines() == [
        "- Objectives (`core`): 11 of 12 runs.",
        "  - not run: spo, both, 0.001: sort S=64 (2 of 3 seeds)",
        "- 600 steps (`long`): 0 of 1 runs.",
    ]
    assert text in page([case.part, later], case.results)


def test_what_differs_from_the_core_is_in_a_variants_name():
    one = cell("spo", "both", CEILING, "sort", 16, 0, average=0.8, betas=(0.9, 0.99), steps=600)
    assert Variant.of(one).name == "spo, both, 0.001, average 0.8, steps 600, betas 0.9 0.99"

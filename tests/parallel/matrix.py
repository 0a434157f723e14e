"""The equivalence matrix: `python -m tests.parallel.matrix` prints it; exits with 1 if a cell is off or misses an error.

With a number, as in `python -m tests.parallel.matrix 2`, only the cells of at most that many ranks are run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from learner.config import ObjectiveConfig
from tests.parallel.cells import Cell, layouts, objectives
from tests.parallel.ranks import run_cases
from tests.parallel.reference import CLIP, OPTIMIZER, STEPS, Expected, expect, prompts, save_model
from tests.parallel.reference_adapters import ALPHA, RANK

CAUGHT = 3.0  # times the limit that a planted error must exceed


@dataclass(frozen=True)
class Errors:
    """Distances from the reference.

    Attributes:
        loss: |x - reference|, divided by |reference| where that is above 1.
        scale: the same measure for the mean S of positives and of negatives.
        gradient: |x - reference| / |reference| of the worst tensor.
        update: the same measure for the change of the weights.
    """

    loss: float
    scale: float
    gradient: float
    update: float


# fp32 against float64. The update is the difference of two weights, each rounded to 2^-24 of itself.
LIMITS = Errors(loss=7e-7, scale=1e-6, gradient=1e-5, update=5e-4)


@dataclass(frozen=True)
class Result:
    """Errors of a cell, and of its run with a planted error."""

    cell: Cell
    real: Errors
    planted: Errors

    @property
    def equal(self) -> bool:
        """Whether every error is within its limit."""
        return all(getattr(self.real, name) <= limit for name, limit in asdict(LIMITS).items())

    @property
    def caught(self) -> dict[str, bool]:
        """Whether each column shows the planted error. asympo's loss depends on the advantages only: it has none."""
        told = asdict(LIMITS).items()
        found = {name: getattr(self.planted, name) > CAUGHT * limit for name, limit in told}
        return {
            name: caught for name, caught in found.items() if name != "loss" or self.cell.objective["name"] != "asympo"
        }


def run(cells: Sequence[Cell], directory: Path, say: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Runs all cells in one start of ranks; compares with one reference for each model and objective."""
    rows = prompts()
    names = [f"cell{i}" for i in range(len(cells))]
    for model in {cell.model for cell in cells}:
        save_model(directory / model, model)
    world = max(cell.ranks for cell in cells)
    say(f"{len(cells)} cells on up to {world} ranks")
    run_cases(
        world, [spec(name, cell, directory, rows) for name, cell in zip(names, cells, strict=True)], directory, 400
    )
    say("the references: Hugging Face transformers, float64")
    torch.set_num_threads(1)  # more of them only get in each other's way at this size
    expected: dict[tuple[str, str, bool], Expected] = {}
    results = []
    for name, cell in zip(names, cells, strict=True):
        key = (cell.model, cell.title, cell.replay)
        if key not in expected:
            objective = ObjectiveConfig(**cell.objective)
            expected[key] = expect(directory / cell.model, rows, objective, cell.adapted, cell.replay)
        results.append(_result(name, cell, expected[key], directory))
    return results


def spec(name: str, cell: Cell, directory: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The case of tests/parallel/worker.py that runs a cell."""
    where = {"name": name, "run": "cell", "world": cell.ranks, "model": str(directory / cell.model)}
    step = {"lr": OPTIMIZER["lr"], "eps": OPTIMIZER["eps"], "clip": CLIP, "steps": STEPS, "prompts": rows}
    values = {key: value for key, value in asdict(cell).items() if key not in ("model", "ranks", "adapted")}
    lora = {"rank": RANK, "alpha": ALPHA, "targets": cell.adapted} if cell.adapted else None
    return where | step | values | {"lora": lora}


def _result(name: str, cell: Cell, expected: Expected, directory: Path) -> Result:
    values = json.loads((directory / f"{name}.json").read_text())
    errors = [
        Errors(
            _largest(found["losses"], expected.losses),
            max(_largest(a, b) for a, b in zip(found["scales"], expected.scales, strict=False)),
            _worst(tensors(directory, f"{name}.{kind}.gradient"), expected.gradient),
            _worst(tensors(directory, f"{name}.{kind}.update"), expected.updates[len(found["losses"])]),
        )
        for kind, found in values.items()
    ]
    return Result(cell, *errors)


def _largest(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest error over the steps in ``found``: the planted run takes only one."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, expected, strict=False))


def tensors(directory: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors that all ranks exported; a tensor exported twice is an error."""
    together: dict[str, Tensor] = {}
    for path in sorted(directory.glob(f"{prefix}.*.safetensors")):
        part = load_file(path)
        assert not together.keys() & part.keys()
        together |= part
    return together


def _worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    return max(((found[k].double() - value).norm() / value.norm()).item() for k, value in expected.items())


def table(results: Sequence[Result]) -> Table:
    """All results as a table; errors over their limit and missed planted errors are red."""
    shown = Table(title="fp32 against Hugging Face transformers in float64: errors, and those of a planted 1%")
    for column in ("model", "layout", "rows", "recompute", "objective"):
        shown.add_column(column)
    for column, limit in asdict(LIMITS).items():
        shown.add_column(f"{column}\n<= {limit:.0e}", justify="right")
        shown.add_column("planted", justify="right")
    for result in results:
        cell, texts = result.cell, []
        for name, limit in asdict(LIMITS).items():
            real, planted = getattr(result.real, name), getattr(result.planted, name)
            texts.append(f"{real:.1e}" if real <= limit else f"[red]{real:.1e}[/red]")
            verdict = {True: "caught", False: "[red]missed[/red]", None: "constant"}[result.caught.get(name)]
            texts.append(f"{planted:.1e} {verdict}" if name in result.caught else verdict)
        shown.add_row(cell.model, cell.layout, cell.rows, cell.recompute, cell.title, *texts)
    return shown


def main() -> int:
    """Runs and prints the matrix; returns the exit status."""
    console = Console(width=max(190, Console().width))
    most = int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize
    cells = [cell for cell in (*layouts(), *objectives()) if cell.ranks <= most]
    transformers.utils.logging.disable_progress_bar()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="matrix") as directory:
        results = run(cells, Path(directory), console.print)
    console.print(table(results))
    bad = [r for r in results if not r.equal or not all(r.caught.values())]
    console.print(f"{len(results) - len(bad)} of {len(results)} cells equal, in {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

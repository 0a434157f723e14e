"""Results of runs: a file for each in the cache, and one compact file of all of them in the repository."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.evidence.cell import Cell

_POINTS = 20  # of the curve of the reward; the others have fewer, as 1 MB is to hold all runs
_FEW_POINTS = 5
_NUMBERS = ("first", "final", "area", "greedy", "sampled")


@dataclass(frozen=True)
class Result:
    """What is kept of a run.

    Attributes:
        cell: the run.
        numbers: first, final, area, greedy and sampled (mean rewards), skipped (steps), cpu_s.
        curves: by name, means of consecutive parts of the run; None where nothing was measured.
    """

    cell: Cell
    numbers: dict[str, float]
    curves: dict[str, list[float | None]]

    @classmethod
    def parse(cls, row: dict[str, Any]) -> Result:
        """Reads a run's own file, or its line of the compact file."""
        numbers = {name: float(f"{row[name]:.4g}") for name in (*_NUMBERS, "skipped", "cpu_s")}
        curves = {name: _thinned(values, _points(name)) for name, values in row["curves"].items()}
        return cls(Cell.model_validate(row["cell"]), numbers, curves)

    def row(self) -> dict[str, Any]:
        """Its line of the compact file."""
        return {"cell": self.cell.settings, **self.numbers, "curves": self.curves}


class Results:
    """The results of a cache directory, and of a compact file.

    Args:
        directory: the cache, which need not exist.
        compact: the compact file, which need not exist.
    """

    def __init__(self, directory: Path, compact: Path) -> None:
        self._directory = directory
        self._found = {result.cell.key: result for result in _read_compact(compact)}
        for path in sorted(directory.glob("*.json")):
            result = Result.parse(json.loads(path.read_text()))
            self._found[result.cell.key] = result

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self._found

    def get(self, cell: Cell) -> Result | None:
        """Returns the result of a cell; None if it was not run."""
        return self._found.get(cell.key)

    def path(self, cell: Cell) -> Path:
        """Where the run of a cell leaves its result."""
        return self._directory / f"{cell.key}.json"

    def take_in(self, cell: Cell) -> Result | None:
        """Reads the result that a run has just left; None if it left none."""
        path = self.path(cell)
        if not path.is_file():
            return None
        result = self._found[cell.key] = Result.parse(json.loads(path.read_text()))
        return result

    def write(self, compact: Path, order: Iterable[Cell]) -> None:
        """Writes the compact file: the cells of ``order`` first, then the others, a line for each run."""
        places = {cell.key: place for place, cell in enumerate(order)}
        rows = sorted(self._found, key=lambda key: (places.get(key, len(places)), key))
        lines = (json.dumps(self._found[key].row(), separators=(",", ":")) for key in rows)
        write_whole(compact, "[\n" + ",\n".join(lines) + "\n]\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that nobody ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _read_compact(path: Path) -> list[Result]:
    return [Result.parse(row) for row in json.loads(path.read_text())] if path.is_file() else []


def _points(name: str) -> int:
    return _POINTS if name == "reward" else _FEW_POINTS


def _thinned(values: Sequence[float | None], points: int) -> list[float | None]:
    """Means of ``points`` consecutive parts, to three digits; a curve that is as short already stays as it is."""
    if len(values) <= points:
        return [_rounded(value) for value in values]
    bounds = [round(len(values) * part / points) for part in range(points + 1)]
    parts = [values[start:end] for start, end in itertools.pairwise(bounds)]
    return [_rounded(_mean(part)) for part in parts]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")

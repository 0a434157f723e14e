"""Cells of the equivalence matrix in bfloat16 against themselves in float32, both on this device.

What production runs, bfloat16 with the kernels that only it has, cannot equal a float64 reference to 1e-5. What is compared
is the gradient as a whole, by relative error and by cosine, and the losses of all steps. A wrong mask, a wrong scale of the
attention or a head that is read twice is far outside of what rounding does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tests.parallel.cells import Cell
from tests.parallel.matrix import spec, tensors
from tests.parallel.ranks import run_cases
from tests.parallel.reference import prompts, save_model

# On a CPU the errors are 0.015 to 0.021, the cosines 0.9998 and more, and the losses are off by at most 7e-4.
ERROR, COSINE, LOSS = 0.05, 0.999, 0.01


@dataclass(frozen=True)
class Closeness:
    """How close a gradient is to another one, over all tensors together.

    Attributes:
        error: |x - expected| / |expected|.
        cosine: cosine of the angle between them.
    """

    error: float
    cosine: float

    @classmethod
    def between(cls, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Closeness:
        """Compares two sets of the same tensors."""
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        a, b = (torch.cat([part[name].double().flatten() for name in sorted(part)]) for part in (found, expected))
        return cls(((a - b).norm() / b.norm()).item(), torch.nn.functional.cosine_similarity(a, b, dim=0).item())


@dataclass(frozen=True)
class Rounded:
    """A cell in bfloat16: its first gradient and its largest relative error of a step's loss, against float32.

    A loss of asympo follows from the advantages alone, and says nothing.
    """

    cell: Cell
    gradient: Closeness
    loss: float

    @property
    def close(self) -> bool:
        """Whether rounding explains the distance."""
        return self.gradient.error <= ERROR and self.gradient.cosine >= COSINE and self.loss <= LOSS


def in_bfloat16(cells: Sequence[Cell], directory: Path) -> list[Rounded]:
    """Runs every cell in bfloat16 as it is, and in float32 with our own layers."""
    runs = {}
    for number, cell in enumerate(cells):
        runs[f"exact{number}"] = replace(cell, layers="own", dtype="float32")
        runs[f"rounded{number}"] = replace(cell, dtype="bfloat16")
    for model in {cell.model for cell in cells}:
        save_model(directory / model, model)
    rows = prompts()
    cases = [spec(name, cell, directory, rows) for name, cell in runs.items()]
    run_cases(max(cell.ranks for cell in cells), cases, directory, 400)
    return [_compare(cell, directory, f"exact{number}", f"rounded{number}") for number, cell in enumerate(cells)]


def _compare(cell: Cell, directory: Path, exact: str, rounded: str) -> Rounded:
    gradients = [tensors(directory, f"{name}.real.gradient") for name in (rounded, exact)]
    losses = [json.loads((directory / f"{name}.json").read_text())["real"]["losses"] for name in (rounded, exact)]
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(*losses, strict=True))
    return Rounded(cell, Closeness.between(*gradients), worst)

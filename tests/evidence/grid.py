"""The runs, in the order of their value: whenever it is stopped, what was run is a balanced table.

Within a part the seeds are the outermost loop. A part contains the runs that its table compares with, also where an earlier
part has them already: no run is made twice. Advantages are divided by the standard deviation of their group for every
objective but where a part is about that, so that the objective is the only difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.evidence.cell import Cell, Staleness

TUNED = 2.5e-4  # the best constant rate of the simulation that the grid follows, with fresh and with stale data
CEILING = 4 * TUNED
STALENESS: tuple[int, ...] = (0, 16, 64)
AVERAGE = 0.9

# Name in the tables -> name of the objective, and its constants.
OBJECTIVES: dict[str, tuple[str, dict[str, float | str]]] = {
    "reinforce": ("reinforce", {"advantage": "std"}),
    "asympo": ("asympo", {"advantage": "std", "rho_max": 0.1}),
    "asympo-paper": ("asympo", {"advantage": "std", "rho_max": "off"}),
    "spo": ("spo", {"advantage": "std", "spo_alpha": 0.1}),
    "positives": ("positives", {"advantage": "std"}),
    "grpo": ("grpo", {"advantage": "std", "dual_clip": 3.0}),
}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"average": AVERAGE},
    "governed": {"governed": True},
    "both": {"average": AVERAGE, "governed": True},
}


@dataclass(frozen=True)
class Part:
    """Runs that answer one question."""

    name: str
    title: str
    cells: tuple[Cell, ...]


def cell(objective: str, arm: str, lr: float, task: str, staleness: Staleness, seed: int, **more: Any) -> Cell:
    """Makes a cell of an objective's and an arm's name."""
    name, constants = OBJECTIVES[objective]
    settings = ARMS[arm] | {"constants": constants | more.pop("constants", {})} | more
    return Cell.parse(
        {"task": task, "objective": name, "staleness": staleness, "lr": lr, "seed": seed, **settings}, source="grid"
    )


def label(one: Cell) -> str:
    """Name of a cell's objective in the tables."""
    for name, (objective, constants) in OBJECTIVES.items():
        if (objective, constants) == (one.objective, one.constants):
            return name
    return " ".join([one.objective, *(f"{name}={value}" for name, value in sorted(one.constants.items()))])


def parts() -> list[Part]:
    """All parts, in order."""
    return [
        Part("core", "Objectives by staleness, with and without the control", tuple(_core(range(5)))),
        Part("ceilings", "Ceilings of the learning rate x 1, x 4, x 16", tuple(_ceilings())),
        Part("arms", "Averaging alone and the governor alone", tuple(_arms())),
        Part("law", "Final reward by learning rate and staleness", tuple(_law())),
        Part("lags", "Other staleness: 4, mixed, a jump", tuple(_lags())),
        Part("sumto", "Many right answers: sumto", tuple(_sumto())),
        Part("others", "One setting at a time", tuple(_others())),
        Part("long", "600 steps", tuple(_long())),
    ]


def short_parts() -> list[Part]:
    """A part of the core for `SHORT=1`: one staleness, three objectives, half as many steps."""
    chosen = [("sort", seed, name) for seed in range(3) for name in ("spo", "asympo", "grpo")]
    cells = [one for task, seed, name in chosen for one in _compared(name, task, 16, seed, steps=100)]
    return [Part("core", "Objectives at a staleness of 16 over 100 steps", tuple(cells))]


def unique(of: Sequence[Part]) -> list[Cell]:
    """Returns the cells of some parts in order, each once."""
    return list({one.key: one for part in of for one in part.cells}.values())


def _compared(name: str, task: str, staleness: Staleness, seed: int, **more: Any) -> Iterator[Cell]:
    """Yields the three runs that are compared: at the tuned rate, at four times that, and there under control."""
    for arm, lr in (("plain", TUNED), ("plain", CEILING), ("both", CEILING)):
        yield cell(name, arm, lr, task, staleness, seed, **more)


def _core(seeds: Iterable[int]) -> Iterator[Cell]:
    for seed, staleness, task, name in itertools.product(seeds, (16, 64, 0), ("sort", "add"), OBJECTIVES):
        yield from _compared(name, task, staleness, seed)


def _ceilings() -> Iterator[Cell]:
    for seed, name, task in itertools.product(range(5), ("spo", "asympo"), ("sort", "add")):
        for arm, factor in itertools.product(("both", "plain"), (1, 4, 16)):
            yield cell(name, arm, TUNED * factor, task, 16, seed)
    for seed, factor, task in itertools.product(range(5), (16, 4, 1), ("sort", "add")):
        yield cell("spo", "averaged", TUNED * factor, task, 16, seed)


def _arms() -> Iterator[Cell]:
    chosen = [("spo", 16), ("asympo", 16), ("grpo", 16), ("spo", 64), ("spo", 0)]
    for seed, (name, staleness), task in itertools.product(range(5), chosen, ("sort", "add")):
        for arm in ARMS:
            yield cell(name, arm, CEILING, task, staleness, seed)


def _lags() -> Iterator[Cell]:
    lags: tuple[Staleness, ...] = (4, "mixed", "jump")
    for seed, staleness, task, name in itertools.product(range(3), lags, ("sort", "add"), ("spo", "asympo", "grpo")):
        yield cell(name, "plain", TUNED, task, staleness, seed)
        yield cell(name, "both", CEILING, task, staleness, seed)


def _sumto() -> Iterator[Cell]:
    for seed, staleness, name in itertools.product(range(3), (16, 64, 0), OBJECTIVES):
        yield from _compared(name, "sumto", staleness, seed)


def _long() -> Iterator[Cell]:
    best = [("spo", "both", CEILING), ("grpo", "both", CEILING), ("positives", "both", CEILING)]
    best += [("spo", "plain", TUNED), ("asympo", "plain", TUNED)]
    for seed, task, (name, arm, lr) in itertools.product(range(3), ("sort", "add"), best):
        yield cell(name, arm, lr, task, 16, seed, steps=600)


def _law() -> Iterator[Cell]:
    rates = [TUNED / 4 * 2**power for power in range(7)]
    names, lags = ("reinforce", "grpo", "asympo"), (16, 0, 64, 4)
    for seed, arm, staleness, name, lr in itertools.product(range(2), ("plain", "averaged"), lags, names, rates):
        yield cell(name, arm, lr, "sort", staleness, seed)


def _others() -> Iterator[Cell]:
    for seed, task in itertools.product(range(3), ("sort", "add")):
        yield from (cell("spo", "both", CEILING, task, staleness, seed) for staleness in STALENESS)
        yield cell("spo", "plain", TUNED, task, 16, seed)
        for name in ("spo", "asympo", "asympo-paper", "positives", "reinforce"):
            yield cell(name, "plain", TUNED, task, 16, seed, constants={"advantage": "mean"})
        for average, staleness in itertools.product((0.5, 0.8, 0.95), STALENESS):
            yield cell("spo", "both", CEILING, task, staleness, seed, average=average)
        for target in (0.2, 0.8):
            yield cell("spo", "both", CEILING, task, 16, seed, drift_target=target)
        for more in ({"betas": (0.9, 0.99)}, {"dtype": "bfloat16"}, {"model": "demo"}):
            yield cell("spo", "plain", TUNED, task, 16, seed, **more)
            yield cell("spo", "both", CEILING, task, 16, seed, **more)
    for seed, (arm, lr) in itertools.product(range(3), (("plain", TUNED), ("both", CEILING))):
        yield cell("spo", arm, lr, "uneven", 16, seed)

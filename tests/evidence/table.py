"""Markdown tables of the results: means over seeds, differences from a baseline, and what was not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.evidence.cell import Cell, Staleness
from tests.evidence.grid import AVERAGE, Part, label
from tests.evidence.results import Result, Results
from tests.evidence.statistics import Estimate, estimate, paired

ABSENT = "-"


@dataclass(frozen=True)
class Variant:
    """What is compared in a setting: everything of a cell but task, staleness and seed.

    Attributes:
        name: objective, arm and learning rate, and what else is not as in the core.
    """

    name: str

    @classmethod
    def of(cls, cell: Cell) -> Variant:
        """Names the variant of a cell."""
        words = [label(cell), cell.arm, f"{cell.lr:g}"]
        if cell.average not in (0.0, AVERAGE):
            words.append(f"average {cell.average:g}")
        words += [
            f"{name} {_plain(getattr(cell, name))}"
            for name in ("drift_target", "steps", "betas", "dtype", "model")
            if getattr(cell, name) != Cell.model_fields[name].default
        ]
        return cls(", ".join(words))


Setting = tuple[str, Staleness]  # task and staleness


class Comparison:
    """Results of a part's cells by variant, setting and seed, with the cells that were not run."""

    def __init__(self, cells: Iterable[Cell], results: Results) -> None:
        self._found: dict[tuple[Variant, Setting], dict[int, Result | None]] = {}
        for cell in cells:
            setting: Setting = (cell.task, cell.staleness)
            place = Variant.of(cell), setting
            self._found.setdefault(place, {})[cell.seed] = results.get(cell)
        self.variants = list(dict.fromkeys(variant for variant, _ in self._found))
        self.settings = sorted({setting for _, setting in self._found}, key=_order)

    def values(self, variant: Variant, setting: Setting, number: str = "final") -> dict[int, float]:
        """One number of every run of a variant in a setting, by seed."""
        found = self._found.get((variant, setting), {})
        return {seed: result.numbers[number] for seed, result in found.items() if result is not None}

    def last(self, variant: Variant, setting: Setting, curve: str) -> list[float]:
        """Mean of the last part of a curve, of every run of a variant in a setting that has one."""
        results = [result for result in self._found.get((variant, setting), {}).values() if result is not None]
        curves = [result.curves.get(curve, []) for result in results]
        return [values[-1] for values in curves if values and values[-1] is not None]

    def planned(self, variant: Variant, setting: Setting) -> int:
        """Number of seeds that are to be run."""
        return len(self._found.get((variant, setting), {}))

    def missing(self) -> list[str]:
        """Says of what there are fewer runs than planned, a line for each variant: settings with seeds done of planned."""
        fewer: dict[Variant, list[str]] = {}
        for variant, setting in self._found:
            done, planned = len(self.values(variant, setting)), self.planned(variant, setting)
            if done < planned:
                fewer.setdefault(variant, []).append(f"{heading(setting)} ({done} of {planned} seeds)")
        return [f"{variant.name}: {', '.join(settings)}" for variant, settings in fewer.items()]


def heading(setting: Setting) -> str:
    """Heading of a setting's column."""
    return f"{setting[0]} S={setting[1]}"


def means(comparison: Comparison, number: str = "final") -> str:
    """Table of one number: a row for each variant, a column for each setting; the best of a column is bold."""
    rows = {}
    best = {setting: _best(comparison, setting, number) for setting in comparison.settings}
    for variant in comparison.variants:
        row = []
        for setting in comparison.settings:
            values = comparison.values(variant, setting, number)
            found = estimate(list(values.values())) if values else None
            text = _shown(found, comparison.planned(variant, setting))
            row.append(f"**{text}**" if found is not None and found.mean == best[setting] else text)
        rows[variant.name] = row
    return markdown(["", *map(heading, comparison.settings)], rows)


def differences(comparison: Comparison, baseline: Variant, number: str = "final") -> str:
    """Table of paired differences from ``baseline``, whose sign is in words where the interval excludes 0."""
    rows = {}
    for variant in comparison.variants:
        if variant == baseline:
            continue
        found = [difference(comparison, variant, baseline, setting, number) for setting in comparison.settings]
        rows[variant.name] = [signed(one) for one in found]
    return markdown([f"minus {baseline.name}", *map(heading, comparison.settings)], rows)


def difference(
    comparison: Comparison, variant: Variant, baseline: Variant, setting: Setting, number: str = "final"
) -> Estimate | None:
    """Paired difference of two variants in a setting; None if no seed has both."""
    return paired(comparison.values(variant, setting, number), comparison.values(baseline, setting, number))


def ends(comparison: Comparison, curves: Sequence[str], settings: Sequence[Setting]) -> str:
    """Table of the ends of curves in some settings: means over seeds."""
    rows = {}
    for variant in comparison.variants:
        row = []
        for setting in settings:
            for curve in curves:
                values = comparison.last(variant, setting, curve)
                row.append(f"{sum(values) / len(values):.3g}" if values else ABSENT)
        rows[variant.name] = row
    titles = [f"{heading(setting)}: {curve}" for setting in settings for curve in curves]
    return markdown(["", *titles], rows)


def not_run(parts: Iterable[Part], results: Results) -> str:
    """Says how much of each part was run, and names what was not."""
    lines = []
    for part in parts:
        done = sum(cell in results for cell in part.cells)
        lines.append(f"- {part.title} (`{part.name}`): {done} of {len(part.cells)} runs.")
        missing = Comparison(part.cells, results).missing()
        if done:
            lines += [f"  - not run: {line}" for line in missing]
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: dict[str, list[str]]) -> str:
    """Makes a table of a header and rows by their names."""
    lines = [list(header), ["---"] * len(header), *([name, *row] for name, row in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _best(comparison: Comparison, setting: Setting, number: str) -> float | None:
    found = [comparison.values(variant, setting, number) for variant in comparison.variants]
    return max((estimate(list(values.values())).mean for values in found if values), default=None)


def _shown(found: Estimate | None, planned: int) -> str:
    if found is None:
        return ABSENT
    seeds = "" if found.seeds == planned else f" (n={found.seeds})"
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if found.seeds > 1 else ""
    return f"{found.mean:.2f}{interval}{seeds}"


def signed(found: Estimate | None) -> str:
    """Writes a difference, with a word for its sign where the interval excludes 0."""
    if found is None:
        return ABSENT
    verdict = {1: "better ", -1: "worse ", 0: ""}[found.sign]
    interval = f" [{found.low:+.2f}, {found.high:+.2f}]" if found.seeds > 1 else " (n=1)"
    return f"{verdict}{found.mean:+.2f}{interval}"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _order(setting: Setting) -> tuple[str, bool, int, str]:
    task, staleness = setting
    number = staleness if isinstance(staleness, int) else 0
    return task, isinstance(staleness, str), number, str(staleness)

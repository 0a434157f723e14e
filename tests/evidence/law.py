"""The staleness law on the runs: up to which learning rate training is stable, and how that falls with staleness.

arXiv 2607.01083 bounds the rate by R_batch / (S * G_upd), with G_upd the norm of an update per unit of learning rate. From
the largest stable rate at each staleness follow the exponent, which is -1 if that holds, and the radius R = rate * S * G_upd,
which is then the same at every S.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from tests.evidence.cell import Cell
from tests.evidence.grid import label
from tests.evidence.results import Results
from tests.evidence.statistics import estimate, exponent, largest_stable
from tests.evidence.table import ABSENT, markdown

_TOLERANCE = 0.25  # of the power of S


@dataclass(frozen=True)
class LawCurve:
    """Final rewards of one objective in one arm.

    Attributes:
        name: objective and arm.
        rewards: by staleness, by learning rate: the final reward of every seed.
        growth: by staleness, mean norm of an update per unit of learning rate.
    """

    name: str
    rewards: dict[int, dict[float, list[float]]]
    growth: dict[int, float]

    def limits(self) -> dict[int, float | None]:
        """Largest stable learning rate by staleness; None where it is beyond the largest that was tried."""
        return {
            staleness: largest_stable({rate: statistics.fmean(values) for rate, values in by_rate.items()})
            for staleness, by_rate in self.rewards.items()
        }

    def exponent(self) -> float | None:
        """Power of the staleness that the largest stable rate falls with, over the S > 0 where it is known."""
        return exponent({staleness: limit for staleness, limit in self.limits().items() if limit is not None})


def law_curves(cells: Iterable[Cell], results: Results) -> list[LawCurve]:
    """Collects the runs of the part `law`; a staleness of which half of the rates or fewer were run says nothing."""
    rewards: dict[str, dict[int, dict[float, list[float]]]] = {}
    growths: dict[str, dict[int, list[float]]] = {}
    planned: dict[tuple[str, int], set[float]] = {}
    for cell in cells:
        if not isinstance(cell.staleness, int):
            continue
        name = f"{label(cell)}, {cell.arm}"
        planned.setdefault((name, cell.staleness), set()).add(cell.lr)
        result = results.get(cell)
        if result is None:
            continue
        by_rate = rewards.setdefault(name, {}).setdefault(cell.staleness, {})
        by_rate.setdefault(cell.lr, []).append(result.numbers["final"])
        known = [value for value in result.curves.get("update_per_lr", []) if value is not None]
        growths.setdefault(name, {}).setdefault(cell.staleness, []).extend(known)
    curves = []
    for name, by_staleness in sorted(rewards.items()):
        enough = {lag: rates for lag, rates in by_staleness.items() if 2 * len(rates) > len(planned[name, lag])}
        growth = {lag: statistics.fmean(growths[name][lag]) for lag in enough if growths[name][lag]}
        if enough:
            curves.append(LawCurve(name, dict(sorted(enough.items())), growth))
    return curves


def law_verdict(curves: Iterable[LawCurve]) -> str:
    """Says for which curves the largest stable rate falls about as 1/S."""
    named: dict[str, list[str]] = {}
    for curve in curves:
        power = curve.exponent()
        if power is None:
            words = "Not known"
        elif abs(power + 1) <= _TOLERANCE:
            words = f"About as 1/S (power within {_TOLERANCE:g} of -1)"
        else:
            words = "More slowly than 1/S, or not at all" if power > -1 else "Faster than 1/S"
        named.setdefault(words, []).append(curve.name if power is None else f"{curve.name} ({power:+.2f})")
    return (
        "\n".join(f"- {words}: {'; '.join(names)}." for words, names in sorted(named.items())) or "Too little was run."
    )


def limits_table(curves: Iterable[LawCurve]) -> str:
    """Table of the largest stable rates, of the radii that follow from them, and of the exponents."""
    curves = list(curves)
    lags = sorted({staleness for curve in curves for staleness in curve.rewards})
    rows = {}
    for curve in curves:
        limits = curve.limits()
        row = [_rate(staleness in curve.rewards, limits.get(staleness)) for staleness in lags]
        slope = curve.exponent()
        radii = [
            f"{limit * staleness * curve.growth[staleness]:.2f} (S={staleness})"
            for staleness, limit in limits.items()
            if limit is not None and staleness and staleness in curve.growth
        ]
        rows[curve.name] = [*row, ABSENT if slope is None else f"{slope:+.2f}", ", ".join(radii) or ABSENT]
    return markdown(["", *(f"S={staleness}" for staleness in lags), "power of S", "R = rate * S * G_upd"], rows)


def rewards_table(curves: Iterable[LawCurve]) -> str:
    """Table of mean final rewards by learning rate."""
    curves = list(curves)
    rates = sorted({rate for curve in curves for by_rate in curve.rewards.values() for rate in by_rate})
    rows = {}
    for curve in curves:
        for staleness, by_rate in curve.rewards.items():
            shown = [f"{estimate(by_rate[rate]).mean:.2f}" if rate in by_rate else ABSENT for rate in rates]
            rows[f"{curve.name}, S={staleness}"] = shown
    return markdown(["", *(f"{rate:g}" for rate in rates)], rows)


def _rate(tried: bool, limit: float | None) -> str:
    if limit is not None:
        return f"{limit:.1e}"
    return "beyond" if tried else ABSENT

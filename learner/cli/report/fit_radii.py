"""`leeway fit-radii`: estimates the radii of the staleness bound from stable and from collapsed runs.

arXiv 2607.01083: training is stable while the drift over a rollout's lag, S * eta * G_upd, stays below R_batch, and the path
of all updates, T * eta * G_upd, below R_crit. Every run gives one value of each: its mean drift, and the length of its path.
A run that collapsed at a drift at which another run was stable did not collapse because of its drift; it bounds R_crit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from learner.cli.report.charts.series import rolling
from learner.cli.run.run_directory import RunError
from learner.cli.run.run_history import Row, RunHistory

_SMOOTH = 10  # steps
_ENOUGH = 3  # runs on each side of a radius


@dataclass(frozen=True)
class Trial:
    """What one run contributes to the estimate.

    Attributes:
        name: the run's directory.
        steps: number of steps up to the collapse, or of all steps.
        staleness: mean S over these steps.
        rate: mean learning rate over these steps.
        growth: mean G_upd, the update norm per unit learning rate, over these steps.
        drift: mean of S * ||update|| over these steps; the update norm is eta * G_upd.
        path: sum of ||update|| over these steps.
        collapsed: the step of the collapse; None when there was none.
    """

    name: str
    steps: int
    staleness: float
    rate: float
    growth: float
    drift: float
    path: float
    collapsed: int | None


@dataclass(frozen=True)
class Radius:
    """Bounds on a radius.

    Attributes:
        stable: the largest value of a stable run; None without one.
        collapsed: the smallest value, above ``stable``, of a run that collapsed; None without one.
        stable_runs: number of stable runs behind the bound.
        collapsed_runs: number of collapsed runs behind the bound.
    """

    stable: float | None
    collapsed: float | None
    stable_runs: int
    collapsed_runs: int

    @property
    def estimate(self) -> float | None:
        """The geometric mean of both bounds; the lower bound where no run collapsed; None where none was stable."""
        if self.stable is None or self.collapsed is None:
            return self.stable
        return math.sqrt(self.stable * self.collapsed)


def read_trial(directory: Path, staleness: Literal["max", "mean"] = "max") -> Trial:
    """Reads the learner.jsonl of a run directory or of a metrics directory.

    Args:
        directory: either directory.
        staleness: which staleness of a step's groups S is: the largest, or the mean over tokens.

    Raises:
        RunError: there are no step rows, or they have no update norms.
    """
    metrics = directory / "metrics"
    rows = list(RunHistory(metrics if metrics.is_dir() else directory).poll().learner.steps.values())
    measured = [row for row in rows if row.get("update_norm") is not None and row["lr"] > 0]
    if not measured:
        raise RunError(
            f"{directory}: {'its steps have no update_norm; set diagnostics.update' if rows else 'no steps in its metrics'}"
        )
    end = collapse([(row["step"], row["reward"]) for row in rows if row["reward"] is not None])
    counted = [row for row in measured if end is None or row["step"] <= end] or measured[:1]
    return Trial(
        name=str(directory),
        steps=len(counted),
        staleness=_mean(counted, f"staleness_{staleness}"),
        rate=_mean(counted, "lr"),
        growth=statistics.fmean(row["update_norm"] / row["lr"] for row in counted),
        drift=statistics.fmean(row[f"staleness_{staleness}"] * row["update_norm"] for row in counted),
        path=sum(row["update_norm"] for row in counted),
        collapsed=end,
    )


def collapse(rewards: Sequence[tuple[int, float]]) -> int | None:
    """The step from which to its end the mean reward of 10 steps stays below half of its best value.

    Args:
        rewards: step number and mean reward of each step, ascending.

    Returns:
        The step; None for a run that did not collapse, never had a reward above 0, or has been below for under 10 steps.
    """
    steps = [step for step, _ in rewards]
    smooth = rolling([reward for _, reward in rewards], _SMOOTH)
    best = max(smooth[_SMOOTH - 1 :], default=0.0)
    if best <= 0:
        return None
    last = max((index for index, value in enumerate(smooth) if value >= best / 2), default=-1)
    return steps[last + 1] if last + _SMOOTH < len(smooth) else None


def fit(trials: Sequence[Trial]) -> tuple[Radius, Radius]:
    """Bounds on R_batch and on R_crit, in this order."""
    healthy = [trial for trial in trials if trial.collapsed is None]
    collapsed = [trial for trial in trials if trial.collapsed is not None]
    stable = max((trial.drift for trial in healthy), default=None)
    by_drift = [trial for trial in collapsed if stable is None or trial.drift > stable]
    by_path = [trial for trial in collapsed if trial not in by_drift]
    batch = Radius(stable, min((trial.drift for trial in by_drift), default=None), len(healthy), len(by_drift))
    return batch, _path_radius(healthy, by_path)


def _path_radius(healthy: Sequence[Trial], collapsed: Sequence[Trial]) -> Radius:
    """Bounds on R_crit. Stable runs with a longer path than a collapsed one are ignored, which is cautious."""
    shortest = min((trial.path for trial in collapsed), default=None)
    paths = [trial.path for trial in healthy if shortest is None or trial.path < shortest]
    return Radius(max(paths, default=None), shortest, len(paths), len(collapsed))


def describe(trials: Sequence[Trial], batch: Radius, critical: Radius) -> list[str]:
    """The lines to print: every run, both radii with the runs behind them, and the settings to use."""
    lines = [f"{'run':40} {'steps':>6} {'S':>6} {'rate':>9} {'G_upd':>9} {'drift':>9} {'path':>9}  outcome"]
    for trial in trials:
        outcome = "stable" if trial.collapsed is None else f"collapsed at step {trial.collapsed}"
        lines.append(
            f"{trial.name[-40:]:40} {trial.steps:>6} {trial.staleness:>6.1f} {trial.rate:>9.2g} {trial.growth:>9.3g} "
            f"{trial.drift:>9.3g} {trial.path:>9.3g}  {outcome}"
        )
    lines += ["", _verdict("R_batch", "drift", batch), _verdict("R_crit", "path", critical)]
    settings = [
        f"{key} = {radius.estimate:.3g}"
        for key, radius in (("r_batch", batch), ("r_crit", critical))
        if radius.estimate is not None and (key == "r_batch" or radius.collapsed is not None)
    ]
    if settings:
        lines += ["", "[learner.lr_control]", 'mode = "cap"', *settings]
    return lines


def _verdict(name: str, quantity: str, radius: Radius) -> str:
    counts = f"{radius.stable_runs} stable, {radius.collapsed_runs} collapsed"
    if radius.stable is None and radius.collapsed is None:
        return f"{name}: unknown ({counts})"
    if radius.collapsed is None:
        return f"{name} > {radius.stable:.3g}: no run collapsed because of its {quantity}, so only a lower bound ({counts})"
    if radius.stable is None:
        return f"{name} < {radius.collapsed:.3g}: no run below that was stable, so only an upper bound ({counts})"
    few = min(radius.stable_runs, radius.collapsed_runs) < _ENOUGH
    advice = f"; too few to trust: at least {_ENOUGH} of each are needed" if few else ""
    return f"{name} = {radius.estimate:.3g}, between {radius.stable:.3g} and {radius.collapsed:.3g} ({counts}{advice})"


def _mean(rows: Sequence[Row], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)

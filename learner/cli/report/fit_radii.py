"""`leeway fit-radii`: the constants of the staleness law, from runs that held and runs that collapsed.

arXiv 2607.01083: training is stable while the drift over a rollout's lag, S * eta * G_upd, stays below R_batch, and the path
of all updates, T * eta * G_upd, below R_crit. Every run tells one number of each: the drift it lived with, and how far it
got. A run that collapsed at a drift which another one bore did not collapse of that; it speaks of the path.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from learner.cli.report.charts import rolling
from learner.cli.run.run_directory import RunError
from learner.cli.run.run_history import Row, RunHistory

_SMOOTH = 10  # steps
_ENOUGH = 3  # runs on either side of a radius


@dataclass(frozen=True)
class Trial:
    """What one run says.

    Attributes:
        steps: up to the collapse, if there was one.
        drift: mean of S * ||update|| over them, each step's update norm standing for eta * G_upd.
        path: the sum of ||update|| over them.
        collapsed: the step of the collapse, or None.
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
    """Bounds on a radius: the largest value that held and the smallest, above it, that did not."""

    held: float | None
    broke: float | None
    runs_held: int
    runs_broke: int

    @property
    def estimate(self) -> float | None:
        """Between the two; what has held where nothing broke; None where nothing held."""
        if self.held is None or self.broke is None:
            return self.held
        return math.sqrt(self.held * self.broke)


def read_trial(directory: Path, staleness: Literal["max", "mean"] = "max") -> Trial:
    """What a run directory's (or a metrics directory's) learner.jsonl says.

    Raises:
        RunError: there are no step rows, or they lack update norms.
    """
    metrics = directory / "metrics"
    rows = list(RunHistory(metrics if metrics.is_dir() else directory).poll().learner.steps.values())
    measured = [row for row in rows if row.get("update_norm") is not None and row["lr"] > 0]
    if not measured:
        raise RunError(
            f"{directory}: {'its steps have no update_norm (diagnostics.update)' if rows else 'no steps in its metrics'}"
        )
    end = collapse([(row["step"], row["reward"]) for row in rows])
    lived = [row for row in measured if end is None or row["step"] <= end] or measured[:1]
    return Trial(
        name=str(directory),
        steps=len(lived),
        staleness=_mean(lived, f"staleness_{staleness}"),
        rate=_mean(lived, "lr"),
        growth=statistics.fmean(row["update_norm"] / row["lr"] for row in lived),
        drift=statistics.fmean(row[f"staleness_{staleness}"] * row["update_norm"] for row in lived),
        path=sum(row["update_norm"] for row in lived),
        collapsed=end,
    )


def collapse(rewards: Sequence[tuple[int, float]]) -> int | None:
    """The step at which a run collapsed: from there to its end the mean reward of 10 steps stays below half of its best.

    Of (step, mean reward), ascending. None for a run that did not, that never had a reward above 0, or whose fall is shorter
    than 10 steps.
    """
    steps = [step for step, _ in rewards]
    smooth = rolling([reward for _, reward in rewards], _SMOOTH)
    best = max(smooth[_SMOOTH - 1 :], default=0.0)
    if best <= 0:
        return None
    last = max((index for index, value in enumerate(smooth) if value >= best / 2), default=-1)
    return steps[last + 1] if last + _SMOOTH < len(smooth) else None


def fit(trials: Sequence[Trial]) -> tuple[Radius, Radius]:
    """R_batch and R_crit."""
    healthy = [trial for trial in trials if trial.collapsed is None]
    broken = [trial for trial in trials if trial.collapsed is not None]
    borne = max((trial.drift for trial in healthy), default=None)
    by_drift = [trial for trial in broken if borne is None or trial.drift > borne]
    by_path = [trial for trial in broken if trial not in by_drift]
    batch = Radius(borne, min((trial.drift for trial in by_drift), default=None), len(healthy), len(by_drift))
    return batch, _path_radius(healthy, by_path)


def _path_radius(healthy: Sequence[Trial], broken: Sequence[Trial]) -> Radius:
    """Runs that held on a longer path than one that broke say nothing: the radius is the careful one."""
    broke = min((trial.path for trial in broken), default=None)
    paths = [trial.path for trial in healthy if broke is None or trial.path < broke]
    return Radius(max(paths, default=None), broke, len(paths), len(broken))


def describe(trials: Sequence[Trial], batch: Radius, critical: Radius) -> list[str]:
    """The lines to print: every run, both radii with the runs behind them, and the settings that follow."""
    lines = [f"{'run':40} {'steps':>6} {'S':>6} {'rate':>9} {'G_upd':>9} {'drift':>9} {'path':>9}  outcome"]
    for trial in trials:
        outcome = "held" if trial.collapsed is None else f"collapsed at step {trial.collapsed}"
        lines.append(
            f"{trial.name[-40:]:40} {trial.steps:>6} {trial.staleness:>6.1f} {trial.rate:>9.2g} {trial.growth:>9.3g} "
            f"{trial.drift:>9.3g} {trial.path:>9.3g}  {outcome}"
        )
    lines += ["", _verdict("R_batch", "drift", batch), _verdict("R_crit", "path", critical)]
    settings = [
        f"{key} = {radius.estimate:.3g}"
        for key, radius in (("r_batch", batch), ("r_crit", critical))
        if radius.estimate is not None and (key == "r_batch" or radius.broke is not None)
    ]
    if settings:
        lines += ["", "[learner.lr_control]", 'mode = "cap"', *settings]
    return lines


def _verdict(name: str, quantity: str, radius: Radius) -> str:
    counts = f"{radius.runs_held} that held, {radius.runs_broke} that did not"
    if radius.held is None and radius.broke is None:
        return f"{name}: nothing known ({counts})"
    if radius.broke is None:
        return f"{name} > {radius.held:.3g}: no run collapsed of its {quantity}, so only a lower bound ({counts})"
    if radius.held is None:
        return f"{name} < {radius.broke:.3g}: no run held below that, so only an upper bound ({counts})"
    few = "" if min(radius.runs_held, radius.runs_broke) >= _ENOUGH else f"; too few to trust: want {_ENOUGH} of each"
    return f"{name} = {radius.estimate:.3g}, between {radius.held:.3g} and {radius.broke:.3g} ({counts}{few})"


def _mean(rows: Sequence[Row], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)

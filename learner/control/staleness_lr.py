"""The bound that staleness puts on the learning rate (arXiv 2607.01083).

S is the rollout lag in learner versions, T the learner's steps, eta the learning rate and G_upd a bound on the update per
unit learning rate: ||theta_{t+1} - theta_t|| <= eta * G_upd. Asynchronous training is stable while

    eta < min(R_batch / (S * G_upd), R_crit / (T * G_upd)).

The first bound keeps the drift between the policy that sampled and the one that learns, at most S * eta * G_upd, within
R_batch; the second keeps the whole path within R_crit. The paper does not say how it measures its quantities. Our choice: S
and G_upd are peak-hold averages of what each step shows. (For AdamW the update norm scales with eta, so estimating G_upd from
it is not circular.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from learner.config.control import LrControlConfig


@dataclass(frozen=True)
class Bounds:
    """Upper bounds on one step's learning rate.

    Attributes:
        batch: R_batch / (S * G_upd); infinite if r_batch is unset, S = 0, or no update has been measured yet.
        critical: R_crit / (T * G_upd); infinite if r_crit is unset or no update has been measured yet.
        active: the lower one of the two if it lies below the scheduled rate, also where ``mode`` only observes.
        rate: the scheduled rate, capped if ``mode`` is "cap".
    """

    batch: float
    critical: float
    active: Literal["none", "batch", "critical"]
    rate: float


class StalenessBound:
    """Bounds the scheduled learning rate by the staleness of each step and the size of the updates before it.

    Every rank gives it the same numbers and so gets the same rate, without a collective.

    Args:
        config: mode, radii and smoothing.
        steps: steps of the run: T where ``config.horizon`` is unset.
    """

    def __init__(self, config: LrControlConfig, steps: int) -> None:
        self._config = config
        self._horizon = config.horizon or steps
        self._growth = PeakHoldAverage(config.smoothing)
        self._staleness = PeakHoldAverage(config.smoothing)

    def configure(self, config: LrControlConfig, steps: int) -> None:
        """Takes other settings, and keeps what was measured."""
        self._config, self._horizon = config, config.horizon or steps
        for average in (self._growth, self._staleness):
            average.decay = config.smoothing

    @property
    def growth(self) -> float | None:
        """Estimate of G_upd, the update norm per unit learning rate; None before the first update."""
        return self._growth.value

    def expect(self, growth: float, staleness: float) -> None:
        """Sets G_upd and S to what they may become, before either is measured.

        A run's first batches are fresh, but every update of theirs is drift for the batches to come, and Adam's first updates
        are its largest.
        """
        self._growth.value, self._staleness.value = growth, staleness

    def bounds(self, scheduled: float, staleness: float) -> Bounds:
        """Bounds of a step whose batch is ``staleness`` optimizer steps old; call once a step, in order."""
        self._staleness.add(staleness)
        batch = self._bound(self._config.r_batch, self._staleness.value or 0.0)
        critical = self._bound(self._config.r_crit, self._horizon)
        lowest = min(batch, critical)
        active = "none" if scheduled <= lowest else "batch" if batch <= critical else "critical"
        return Bounds(batch, critical, active, min(scheduled, lowest) if self._config.mode == "cap" else scheduled)

    def observe(self, update_norm: float, rate: float) -> None:
        """Records the L2 norm of an update made at learning rate ``rate``; ignored if the rate is 0 or the norm infinite."""
        if rate > 0 and math.isfinite(update_norm):
            self._growth.add(update_norm / rate)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {"growth": self._growth.value, "staleness": self._staleness.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._growth.value = state["growth"]
        self._staleness.value = state["staleness"]

    def _bound(self, radius: float | None, steps: float) -> float:
        drift = steps * (self._growth.value or 0.0)  # per unit learning rate
        return radius / drift if radius is not None and drift > 0 else math.inf


class PeakHoldAverage:
    """An average that rises at once and falls slowly: max(x, decay * previous + (1 - decay) * x).

    Attributes:
        decay: the decay per value, 0 to below 1.
        value: the average; None before the first value.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Takes in one value."""
        previous = value if self.value is None else self.value
        self.value = max(value, self.decay * previous + (1 - self.decay) * value)

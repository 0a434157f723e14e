"""The staleness-aware learning rate (arXiv 2607.01083).

S is the rollout lag in learner versions, T the learner's steps, G_upd a bound on the update per unit learning rate:
||theta_{t+1} - theta_t|| <= eta * G_upd. Asynchronous training is stable while

    eta < min(R_batch / (S * G_upd), R_crit / (T * G_upd)).

The first keeps the drift between the policy that sampled and the one that learns, at most S * eta * G_upd, within R_batch;
the second keeps the whole path within R_crit. How the paper measures its quantities is not given; here S and G_upd are
envelopes of what each step shows. (For AdamW ||theta_{t+1} - theta_t|| / eta does not depend on eta: no circle.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from learner.config.control import LrControlConfig


@dataclass(frozen=True)
class Bounds:
    """What the law allows at one step; infinite where it says nothing (no radius, no update seen yet, S = 0)."""

    batch: float
    critical: float
    active: Literal["none", "batch", "critical"]  # the lower one, where it lies below the scheduled rate
    rate: float  # the scheduled rate, capped where ``mode`` says so


class LrControl:
    """Caps the scheduled learning rate.

    Fed the same numbers it comes to the same rate on every rank, with no collective.
    """

    def __init__(self, config: LrControlConfig, steps: int) -> None:
        """``steps``: T where the configuration names none."""
        self._config = config
        self._horizon = config.horizon or steps
        self._growth = PeakHoldAverage(config.smoothing)
        self._staleness = PeakHoldAverage(config.smoothing)

    @property
    def growth(self) -> float | None:
        """G_upd; None before the first update."""
        return self._growth.value

    def expect(self, growth: float, staleness: float) -> None:
        """What G_upd and S may be, before any is measured.

        A run's first batches are fresh, but what it learns of them is the drift of those to come, and Adam's first steps are
        its longest.
        """
        self._growth.value, self._staleness.value = growth, staleness

    def bounds(self, scheduled: float, staleness: float) -> Bounds:
        """The bounds of a step whose batch lags by ``staleness``; call once a step, in order."""
        self._staleness.add(staleness)
        batch = self._bound(self._config.r_batch, self._staleness.value or 0.0)
        critical = self._bound(self._config.r_crit, self._horizon)
        lowest = min(batch, critical)
        active = "none" if scheduled <= lowest else "batch" if batch <= critical else "critical"
        return Bounds(batch, critical, active, min(scheduled, lowest) if self._config.mode == "cap" else scheduled)

    def observe(self, update_norm: float, rate: float) -> None:
        """Takes note of an update that was made with ``rate``; one without (rate 0) says nothing."""
        if rate > 0 and math.isfinite(update_norm):
            self._growth.add(update_norm / rate)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: JSON values."""
        return {"growth": self._growth.value, "staleness": self._staleness.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``'s answer."""
        self._growth.value = state["growth"]
        self._staleness.value = state["staleness"]

    def _bound(self, radius: float | None, steps: float) -> float:
        drift = steps * (self._growth.value or 0.0)  # per unit learning rate
        return radius / drift if radius is not None and drift > 0 else math.inf


class PeakHoldAverage:
    """Follows a rise at once and a fall slowly: max(x, decay * before + (1 - decay) * x)."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self.value: float | None = None

    def add(self, value: float) -> None:
        before = value if self.value is None else self.value
        self.value = max(value, self._decay * before + (1 - self._decay) * value)

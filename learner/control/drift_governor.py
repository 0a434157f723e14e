"""Governs the learning rate by how far the policy was measured to move, so that stale data stays close to the policy.

The tokens of a batch were sampled by a policy that is ``lag`` optimizer steps old, and E steps older still where an average
of the weights is published (E = a / (1 - a) for its decay a). Over n steps the log-probability of a sampled token moves by
about sqrt(n) * m * lr: m is measured (learner.behaviour.drift_probe), and the rate of a step is

    lr_t = min(lr, growth * lr_{t-1}, f * target / (sqrt(lag + 1 + E) * m)),    the first one start * lr.

f is what holds and rollbacks have left of the rate, 1 without any: they lower a rate that the drift bounds, too.

The rule and its constants are our own (docs/objectives.md). It has the form of the staleness law of arXiv 2607.01083, with
the growth measured in the policy's probabilities, where staleness hurts, instead of in its weights; it needs no
probabilities of the policy that sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from learner.config.control import LrControlConfig


@dataclass(frozen=True)
class DriftDecision:
    """One step's learning rate by the governor.

    Attributes:
        rate: learning rate, at most the scheduled one.
        limited: whether it is below the scheduled one.
        scale: m, nats per unit of learning rate and square root of a step; None before the first measurement.
        predicted: drift that the batch's age amounts to at this rate, in nats a token; None before the first measurement.
    """

    rate: float
    limited: bool
    scale: float | None
    predicted: float | None


@dataclass(frozen=True)
class Movement:
    """A measurement of how far the policy has moved.

    Attributes:
        drift: mean |change of log p| of a sampled token, nats; not finite if a log-probability was not.
        steps: optimizer steps that it was made over.
        rate: their mean learning rate.
    """

    drift: float
    steps: int
    rate: float


class DriftGovernor:
    """Every rank gives it the same numbers and so gets the same rate, without a collective.

    Args:
        config: target, growth, start and smoothing.
        average: decay of the average of the weights that is published; 0: there is none.
    """

    def __init__(self, config: LrControlConfig, average: float) -> None:
        self._config = config
        self._extra_age = average / (1 - average)
        self._rate: float | None = None
        self._scale: float | None = None
        self._uncertain = False  # the last measurement was not finite: the rate may not rise until one is

    def configure(self, config: LrControlConfig) -> None:
        """Takes other settings, and keeps what was measured."""
        self._config = config

    def decide(self, scheduled: float, lag: float, factor: float = 1.0) -> DriftDecision:
        """Decides a step's rate.

        Args:
            scheduled: rate of the schedule, the ceiling.
            lag: mean age of the batch's tokens in optimizer steps.
            factor: on the target: what holds and rollbacks have left of the rate; ``scheduled`` has it already.
        """
        config, steps = self._config, math.sqrt(lag + 1 + self._extra_age)
        if self._rate is None:
            rate = config.drift_start * scheduled
        else:
            rate = min(scheduled, self._rate * (1.0 if self._uncertain else config.drift_growth))
        if self._scale:
            rate = min(rate, factor * config.drift_target / (steps * self._scale))
        predicted = None if self._scale is None else steps * self._scale * rate
        return DriftDecision(rate, rate < scheduled, self._scale, predicted)

    def updated(self, rate: float) -> None:
        """Records the rate of a step that has changed the weights: the next one may be larger by the growth."""
        self._rate = rate

    def observe(self, movement: Movement) -> None:
        """Records a measurement.

        One that is not finite says nothing of the size of the movement, and keeps the rate from rising until one is. One at
        rate 0 is ignored.
        """
        self._uncertain = not math.isfinite(movement.drift)
        if self._uncertain or movement.rate <= 0:
            return
        found = movement.drift / (math.sqrt(movement.steps) * movement.rate)
        keep = self._config.drift_decay**movement.steps
        self._scale = found if self._scale is None else keep * self._scale + (1 - keep) * found

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {"rate": self._rate, "scale": self._scale, "uncertain": self._uncertain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._rate, self._scale, self._uncertain = state["rate"], state["scale"], state["uncertain"]

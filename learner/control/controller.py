"""Decides the learning rate of every step: the schedule, the staleness bound on it, and what the alarms do to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from learner.batch.statistics import GroupStatistics
from learner.config import LearnerConfig
from learner.control.alarms import Alarm, Alarms, Row
from learner.control.schedule import learning_rate
from learner.control.staleness_lr import Bounds, StalenessBound


@dataclass(frozen=True)
class LearningRateDecision:
    """A step's learning rate, and what it was derived from.

    Attributes:
        rate: learning rate that the optimizer uses.
        scheduled: rate of the schedule, times the factor that earlier holds and rollbacks have left.
        bounds: bounds that staleness puts on the rate; None if lr_control.mode is "off".
        frozen: whether an alarm's hold freezes the weights in this step (rate 0).
    """

    rate: float
    scheduled: float
    bounds: Bounds | None
    frozen: bool

    @property
    def active(self) -> Literal["none", "batch", "critical", "hold"]:
        """Name of what limits the learning rate; in "observe" mode, of the bound that would limit it."""
        if self.frozen:
            return "hold"
        return self.bounds.active if self.bounds else "none"


class LearningRateController:
    """Decides each step's learning rate, and raises alarms from what each step measured.

    Every rank gives it the same numbers and so comes to the same decisions, without a collective.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._staleness_bound = StalenessBound(config.lr_control, config.steps)
        self._alarms = Alarms(config.alarms)
        self._frozen_steps = 0  # steps for which the weights stay frozen
        self._factor = 1.0
        self._rollbacks = 0
        self._steps_without_alarm = 0  # steps in a row, up to the last one, in which no alarm was active

    def expect(self, weights: int) -> None:
        """Prepares the staleness bound for a run's first step; ``weights``: number of trained weights.

        Adam's first update is at most the learning rate in each of them.
        """
        self._staleness_bound.expect(math.sqrt(weights), self._config.max_staleness)

    def decide(self, step: int, groups: GroupStatistics) -> LearningRateDecision:
        """Decides the rate of step ``step`` (0-based), which trains ``groups``; call once a step, in order."""
        control = self._config.lr_control
        staleness = groups.staleness_max if control.staleness == "max" else groups.staleness_mean
        scheduled = self._factor * learning_rate(self._config.optimizer, step, self._config.steps)
        bounds = self._staleness_bound.bounds(scheduled, staleness) if control.mode != "off" else None
        frozen, self._frozen_steps = self._frozen_steps > 0, max(0, self._frozen_steps - 1)
        return LearningRateDecision(0.0 if frozen else bounds.rate if bounds else scheduled, scheduled, bounds, frozen)

    def observe(self, row: Row) -> list[Alarm]:
        """Records a step's row and returns the alarms that it raises.

        An alarm whose action is "hold" freezes the weights for ``hold_steps`` steps and resets the alarms: what they saw says
        nothing about training at the lower rate that follows. A "rollback" is left to the caller; once the run has used up
        its rollbacks, such an alarm is returned as a "hold".
        """
        if row["update_norm"] is not None:
            self._staleness_bound.observe(row["update_norm"], row["lr"])
        if row["lr_active"] == "hold":
            return []
        raised = [self._limited(alarm) for alarm in self._alarms.observe(row)]
        self._steps_without_alarm = 0 if self._alarms.has_active else self._steps_without_alarm + 1
        if any(alarm.action == "hold" for alarm in raised):
            self.hold()
        return raised

    def hold(self) -> None:
        """Freezes the weights for ``hold_steps`` steps from the next one on, and lowers the rate that follows."""
        self._frozen_steps = self._config.alarms.hold_steps
        self._factor *= self._config.alarms.hold_factor
        self._alarms.reset()

    def healthy_steps(self, step: int) -> range:
        """Steps whose weights have proved healthy by ``step``: no alarm was active at them, nor in the window after them."""
        return range(step - self._steps_without_alarm + 1, step - self._config.alarms.window + 1)

    def next_rollback(self) -> tuple[int, float]:
        """Number of the next rollback, and the factor on the scheduled rate after it."""
        return self._rollbacks + 1, self._factor * self._config.alarms.hold_factor

    def resume_after_rollback(self, number: int, factor: float) -> None:
        """Adapts the state of the healthy checkpoint that rollback ``number`` returned to; ``factor``: on the rate."""
        self._rollbacks, self._factor = number, factor
        self._frozen_steps, self._steps_without_alarm = 0, 0
        self._alarms.reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {
            "staleness_bound": self._staleness_bound.state_dict(),
            "alarms": self._alarms.state_dict(),
            "frozen_steps": self._frozen_steps,
            "factor": self._factor,
            "rollbacks": self._rollbacks,
            "steps_without_alarm": self._steps_without_alarm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._staleness_bound.load_state_dict(state["staleness_bound"])
        self._alarms.load_state_dict(state["alarms"])
        self._frozen_steps, self._factor = state["frozen_steps"], state["factor"]
        self._rollbacks, self._steps_without_alarm = state["rollbacks"], state["steps_without_alarm"]

    def _limited(self, alarm: Alarm) -> Alarm:
        """Turns a rollback into a hold once the run has made as many rollbacks as alarms.rollbacks allows."""
        limit = self._config.alarms.rollbacks
        if alarm.action != "rollback" or self._rollbacks < limit:
            return alarm
        return replace(
            alarm, action="hold", reason=f"{alarm.reason}; a hold, after {limit} rollbacks (alarms.rollbacks)"
        )

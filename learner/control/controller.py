"""The learning rate of every step: the schedule, the staleness law on top of it, and what alarms make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from learner.batch.statistics import GroupStatistics
from learner.config import LearnerConfig
from learner.control.alarms import Alarm, Alarms, Row
from learner.control.schedule import learning_rate
from learner.control.staleness_lr import Bounds, LrControl


@dataclass(frozen=True)
class LearningRateDecision:
    """A step's learning rate and why it is so.

    Attributes:
        rate: what the optimizer uses.
        scheduled: what the schedule says, after the factor that earlier holds have left.
        bounds: of the staleness law; None where it is off.
        held: True while an alarm freezes the weights.
    """

    rate: float
    scheduled: float
    bounds: Bounds | None
    held: bool

    @property
    def active(self) -> Literal["none", "batch", "critical", "hold"]:
        """What keeps the rate (or would, were the law not only observed) below the scheduled one."""
        if self.held:
            return "hold"
        return self.bounds.active if self.bounds else "none"


class LearningRateController:
    """Decides each step's learning rate and watches what comes of it.

    It is fed numbers that are the same on every rank, and so comes to the same decisions on all of them with no collective.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._law = LrControl(config.lr_control, config.steps)
        self._alarms = Alarms(config.alarms)
        self._held = 0  # steps for which the weights stay frozen
        self._factor = 1.0
        self._rollbacks = 0
        self._quiet = 0  # steps in a row without a sign, up to the last one

    def expect(self, weights: int) -> None:
        """Call before a run's first step. Adam's first update is at most the learning rate in each of the ``weights``."""
        self._law.expect(math.sqrt(weights), self._config.max_staleness)

    def decide(self, step: int, groups: GroupStatistics) -> LearningRateDecision:
        """The rate of step ``step`` (0-based), which trains ``groups``; call once a step, in order."""
        control = self._config.lr_control
        staleness = groups.staleness_max if control.staleness == "max" else groups.staleness_mean
        scheduled = self._factor * learning_rate(self._config.optimizer, step, self._config.steps)
        bounds = self._law.bounds(scheduled, staleness) if control.mode != "off" else None
        held, self._held = self._held > 0, max(0, self._held - 1)
        return LearningRateDecision(0.0 if held else bounds.rate if bounds else scheduled, scheduled, bounds, held)

    def observe(self, row: Row) -> list[Alarm]:
        """Takes note of a step's row and returns the alarms it raises.

        A hold freezes the weights for ``hold_steps`` steps. What was seen before is then forgotten: it says nothing about
        training at the lower rate that follows. A rollback is the caller's business, while there are any left; then it is a
        hold.
        """
        if row["update_norm"] is not None:
            self._law.observe(row["update_norm"], row["lr"])
        if row["lr_active"] == "hold":
            return []
        raised = [self._affordable(alarm) for alarm in self._alarms.observe(row)]
        self._quiet = 0 if self._alarms.has_active else self._quiet + 1
        if any(alarm.action == "hold" for alarm in raised):
            self.hold()
        return raised

    def hold(self) -> None:
        """Freezes the weights from the next step on."""
        self._held = self._config.alarms.hold_steps
        self._factor *= self._config.alarms.hold_factor
        self._alarms.forget()

    def healthy_steps(self, step: int) -> range:
        """The steps whose weights have proved healthy by ``step``: no sign at them, nor in the window of steps after."""
        return range(step - self._quiet + 1, step - self._config.alarms.window + 1)

    def next_rollback(self) -> tuple[int, float]:
        """The number of the next rollback, and the factor of the scheduled rate after it."""
        return self._rollbacks + 1, self._factor * self._config.alarms.hold_factor

    def rolled_back(self, number: int, factor: float) -> None:
        """Goes on from a healthy checkpoint's state after rollback ``number``."""
        self._rollbacks, self._factor = number, factor
        self._held, self._quiet = 0, 0
        self._alarms.forget()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: JSON values."""
        return {
            "law": self._law.state_dict(),
            "alarms": self._alarms.state_dict(),
            "held": self._held,
            "factor": self._factor,
            "rollbacks": self._rollbacks,
            "quiet": self._quiet,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``'s answer; an empty one is the state of a new run."""
        if state:
            self._law.load_state_dict(state["law"])
            self._alarms.load_state_dict(state["alarms"])
            self._held, self._factor = state["held"], state["factor"]
            self._rollbacks, self._quiet = (
                state.get("rollbacks", 0),
                state.get("quiet", 0),
            )  # absent in older checkpoints

    def _affordable(self, alarm: Alarm) -> Alarm:
        limit = self._config.alarms.rollbacks
        if alarm.action != "rollback" or self._rollbacks < limit:
            return alarm
        return replace(
            alarm, action="hold", reason=f"{alarm.reason}; a hold, after {limit} rollbacks (alarms.rollbacks)"
        )

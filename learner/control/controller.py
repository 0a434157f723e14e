"""Decides the learning rate of every step: the schedule, the rule that bounds it, and what the alarms do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from learner.batch.statistics import GroupStatistics
from learner.config import LearnerConfig
from learner.control.alarms import Alarm, Alarms, Row
from learner.control.drift_governor import DriftDecision, DriftGovernor, Movement
from learner.control.effective_sample import ess_rate, ess_share
from learner.control.schedule import learning_rate
from runtime.settings import SettingsError


@dataclass(frozen=True)
class LearningRateDecision:
    """A step's learning rate, and what it was derived from.

    Attributes:
        rate: learning rate that the optimizer uses.
        scheduled: rate of the schedule, times the factor that earlier holds and rollbacks have left.
        frozen: whether an alarm's hold freezes the weights in this step (rate 0).
        drift: the governor's decision; None unless lr_control.mode is "drift", and in frozen steps.
        share: effective sample size of the step's responses, as a share of them, that lowered the rate; None unless
            lr_control.mode is "ess", and before the step's gradient is known.
        projected: whether the step's gradient was turned away from the last one (lr_control.mode = "gac").
    """

    rate: float
    scheduled: float
    frozen: bool
    drift: DriftDecision | None = None
    share: float | None = None
    projected: bool = False

    @property
    def active(self) -> Literal["none", "drift", "ess", "gac", "hold"]:
        """Name of what limits the learning rate, or the step."""
        if self.frozen:
            return "hold"
        if self.share is not None:
            return "ess" if self.share < 1 else "none"
        if self.projected:
            return "gac"
        if self.drift is not None:
            return "drift" if self.drift.limited else "none"
        return "none"


class LearningRateController:
    """Decides each step's learning rate, and raises alarms from what each step measured.

    Every rank gives it the same numbers and so comes to the same decisions, without a collective.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._governor = DriftGovernor(config.lr_control, config.publish.average)
        self._alarms = Alarms(config.alarms)
        self._frozen_steps = 0  # steps for which the weights stay frozen
        self._factor = 1.0
        self._rollbacks = 0
        self._steps_without_alarm = 0  # steps in a row, up to the last one, in which no alarm was active

    def configure(self, config: LearnerConfig) -> None:
        """Takes other settings between two steps, and keeps what was measured; the modes must stay what they are."""
        self._config = config
        self._governor.configure(config.lr_control)
        self._alarms.configure(config.alarms)

    def decide(self, step: int, groups: GroupStatistics) -> LearningRateDecision:
        """Decides the rate of step ``step`` (0-based), which trains ``groups``; call once a step, in order."""
        scheduled = self._factor * learning_rate(self._config.optimizer, step, self._config.steps)
        frozen, self._frozen_steps = self._frozen_steps > 0, max(0, self._frozen_steps - 1)
        if frozen:
            return LearningRateDecision(0.0, scheduled, frozen)
        governed = self._config.lr_control.mode == "drift"
        drift = self._governor.decide(scheduled, groups.staleness_mean, self._factor) if governed else None
        return LearningRateDecision(drift.rate if drift else scheduled, scheduled, frozen, drift)

    def settle(
        self, decision: LearningRateDecision, metrics: Mapping[str, float], gradient_cosine: float | None
    ) -> LearningRateDecision:
        """Completes a decision by what is known once the step has its gradient, before the weights move. Changes no state.

        Args:
            decision: what ``decide`` returned for the step.
            metrics: the objective's metrics, summed over the step.
            gradient_cosine: between the step's gradient and the last one; None if it is not known.

        Raises:
            SettingsError: lr_control.mode is "ess", and the objective reports no importance weights.
        """
        control = self._config.lr_control
        if control.mode == "ess" and not decision.frozen:
            if "ess_count" not in metrics:
                raise SettingsError(
                    f'learner.lr_control.mode = "ess": the objective {self._config.objective.name!r} has no importance '
                    'weights (it does not set needs_behaviour); use mode = "drift", which needs none'
                )
            share = ess_share(metrics)
            return replace(decision, rate=ess_rate(decision.rate, share), share=share)
        limit = control.projects_above
        return replace(decision, projected=limit is not None and (gradient_cosine or 0.0) > limit)

    def updated(self, decision: LearningRateDecision) -> None:
        """Records that a step at the decided rate has changed the weights."""
        if decision.drift is not None:
            self._governor.updated(decision.drift.rate)

    def observe_drift(self, movement: Movement) -> None:
        """Records a measurement of how far the policy has moved; it is read if lr_control.mode is "drift"."""
        self._governor.observe(movement)

    def observe(self, row: Row) -> list[Alarm]:
        """Records a step's row and returns the alarms that it raises.

        An alarm whose action is "hold" freezes the weights for ``hold_steps`` steps and resets the alarms: what they saw says
        nothing about training at the lower rate that follows. A "rollback" is left to the caller; once the run has used up
        its rollbacks, such an alarm is returned as a "hold".
        """
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

    def rollback_by_operator(self) -> tuple[int, float]:
        """Number of a rollback that an operator asks for, and the factor on the scheduled rate after it: the present one."""
        return self._rollbacks + 1, self._factor

    def resume_after_rollback(self, number: int, factor: float) -> None:
        """Adapts the state of the healthy checkpoint that rollback ``number`` returned to; ``factor``: on the rate."""
        self._rollbacks, self._factor = number, factor
        self._frozen_steps, self._steps_without_alarm = 0, 0
        self._alarms.reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {
            "governor": self._governor.state_dict(),
            "alarms": self._alarms.state_dict(),
            "frozen_steps": self._frozen_steps,
            "factor": self._factor,
            "rollbacks": self._rollbacks,
            "steps_without_alarm": self._steps_without_alarm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._governor.load_state_dict(state["governor"])
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

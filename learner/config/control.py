"""Settings of the learning rate's safeguards: [learner.lr_control], [learner.alarms], [learner.diagnostics]."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from runtime.settings import Settings

AlarmAction = Literal["off", "warn", "hold", "rollback"]


class LrControlConfig(Settings):
    """What bounds the learning rate: the measured drift of the policy, or a rule of others.

    The governor of drift (mode = "drift") needs no constant of model or task: learner.optimizer.lr is a ceiling then, and may
    be set far too high (docs/objectives.md).

    Two rules of others decide between a step's gradient and its update: "ess" (VCPO, 2602.17616) lowers the rate by the
    effective sample size of the step's responses (learner/control/effective_sample.py); "gac" (2603.01501) removes from a
    gradient what points where the last one did (learner/megatron/training/gradient_projection.py).
    """

    mode: Literal["off", "drift", "ess", "gac"] = Field(
        default="off",
        description="off; drift: keep the movement of the policy over the age of the data below drift_target; ess: the rate "
        "times the root of ess_share, as VCPO, for objectives that need mu; gac: gradients are projected so that "
        "gradient_cosine stays below gac_limit",
    )
    drift_target: float = Field(
        default=0.4,
        gt=0,
        description="drift: largest predicted movement over the age of the data: mean |change of log p| of a sampled token, "
        "which grows with the square root of the steps; nats",
    )
    drift_every: int = Field(default=4, gt=0, description="drift: steps over which one measurement is made")
    drift_share: float = Field(
        default=0.125, gt=0, le=1, description="drift: share of a batch's responses that are scored again to measure it"
    )
    drift_growth: float = Field(default=1.25, gt=1, description="drift: most by which the rate grows in one step")
    drift_start: float = Field(
        default=0.02, gt=0, le=1, description="drift: the first step's rate, as a share of the schedule's"
    )
    drift_decay: float = Field(
        default=0.9, ge=0, lt=1, description="drift: decay per step of the mean of what was measured"
    )
    gac_limit: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="gac: largest cosine to the last gradient that a gradient keeps; 0: it keeps nothing of it. Costs a copy "
        "of the gradient, 4 bytes a weight, on the device and in the checkpoint",
    )

    @property
    def projects_above(self) -> float | None:
        """Cosine of consecutive gradients above which a gradient is projected; None if that is not the mode."""
        return self.gac_limit if self.mode == "gac" else None


class DiagnosticsConfig(Settings):
    """Measurements of each step's gradient and update, on each rank's shard of the fp32 weights."""

    update: bool = Field(
        default=True, description="measure the update's norm and cosine; the alarm ballistic needs them"
    )
    update_cosine: bool = Field(
        default=True,
        description="measure the cosine of consecutive updates; keeps the sample of the last update in memory",
    )
    gradient_cosine: bool = Field(
        default=True,
        description="measure the cosine of consecutive gradients, before clipping; keeps the sample of the last one",
    )
    update_stride: int = Field(
        default=61,
        gt=0,
        description="every n-th element is measured, 1: all (costs four copies of the shard); must be odd, because the "
        "widths of models are even and an even stride would sample the same few columns",
    )

    @model_validator(mode="after")
    def _odd(self) -> DiagnosticsConfig:
        if self.update_stride % 2 == 0:
            raise ValueError(f"update_stride = {self.update_stride} is even: take {self.update_stride + 1}")
        return self


class AlarmConfig(Settings):
    """Rules that detect a coming collapse, and the action of each. They use means over ``window`` steps, or at least half.

    Actions: off: the rule is not checked. warn: a log line and an event. hold: the weights are frozen (learning rate 0) for
    ``hold_steps`` steps, so that the fleets' data becomes on-policy again; then training goes on at ``hold_factor`` times the
    rate, for good. rollback: the learner starts again from the newest checkpoint at which no alarm was active, nor within a
    window after it, as a new timeline and at ``hold_factor`` times the rate.
    """

    window: int = Field(default=10, gt=1, description="steps that the means go back")
    nll_positive: AlarmAction = Field(default="warn", description="action if the NLL of positives rises")
    nll_rise: float = Field(
        default=2.0, gt=1, description="alarm above this many times its lowest mean, if that is not below its first one"
    )
    rho: AlarmAction = Field(default="warn", description="action if negatives weigh too much against positives")
    rho_limit: float = Field(default=0.3, gt=0, description="alarm above this mean of rho")
    ballistic: AlarmAction = Field(default="warn", description="action if consecutive updates point the same way")
    ballistic_limit: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="alarm above this mean cosine, momentum removed; a healthy run on `sort` has 0.2 to 0.45",
    )
    reward: AlarmAction = Field(default="warn", description="action if the reward collapses")
    reward_fall: float = Field(
        default=0.5,
        gt=0,
        description="alarm if the mean has fallen from its best by more than this many times the larger of two: how far it "
        "has risen since the first steps, and the standard deviation of a step's rewards",
    )
    entropy: AlarmAction = Field(
        default="warn",
        description="action if the entropy collapses and the reward has fallen by half of what raises its own alarm",
    )
    entropy_fall: float = Field(default=0.05, gt=0, lt=1, description="alarm below this share of its first mean")
    non_finite: AlarmAction = Field(default="warn", description="action if losses or gradients are not finite")
    non_finite_steps: int = Field(default=3, gt=0, description="alarm at this many such steps in one window")
    dominance: AlarmAction = Field(default="warn", description="action if one fleet dominates the gradient")
    dominance_limit: float = Field(
        default=5.0,
        gt=1,
        description="alarm if a group of a fleet weighs more than this many times a group of the others, and all of its "
        "groups a quarter of the gradient or more; a group's weight is the sum of |d loss / d log p| / temperature",
    )
    experts: AlarmAction = Field(default="warn", description="action if the routing of a mixture's layer narrows")
    experts_rise: float = Field(
        default=2.0,
        gt=1,
        description="alarm if the load of a layer, its busiest expert's tokens over the mean of its experts, is above this "
        "many times its first mean; a model is trained with the load that it came with",
    )
    hold_steps: int = Field(default=20, gt=0, description="steps for which a hold freezes the weights")
    hold_factor: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="factor on the learning rate, and on drift_target, after a hold or a rollback",
    )
    rollbacks: int = Field(default=3, ge=0, description="most rollbacks of a run; after that such alarms hold")

"""Configuration of the learning rate's safeguards: the staleness-aware cap, the alarms, what a step measures for them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from runtime.settings import Settings

AlarmAction = Literal["off", "warn", "hold", "rollback"]


class LrControlConfig(Settings):
    """The staleness law (arXiv 2607.01083): lr below R_batch / (S * G_upd) and R_crit / (T * G_upd).

    G_upd, the norm of an update per unit learning rate, is measured; the radii are constants of model and task.
    """

    mode: Literal["off", "observe", "cap"] = Field(default="off", description="observe: log the bounds, change nothing")
    r_batch: float | None = Field(
        default=None,
        gt=0,
        description="largest drift over S steps, L2 norm of the weights; `leeway fit-radii` estimates it",
    )
    r_crit: float | None = Field(default=None, gt=0, description="largest path over T steps, likewise")
    horizon: int | None = Field(default=None, gt=0, description="T, steps; default: learner.steps")
    staleness: Literal["max", "mean"] = Field(
        default="max", description="S of a step: the oldest token's (the paper's), or the mean over tokens"
    )
    smoothing: float = Field(default=0.9, ge=0, lt=1, description="how slowly S and G_upd fall; they rise at once")

    @model_validator(mode="after")
    def _has_a_radius(self) -> LrControlConfig:
        if self.mode == "cap" and self.r_batch is None and self.r_crit is None:
            raise ValueError(
                'mode = "cap" needs r_batch, r_crit or both: run with mode = "observe", then `leeway fit-radii RUNS...`'
            )
        return self


class DiagnosticsConfig(Settings):
    """What a step measures of its own update, on each rank's shard of the fp32 weights."""

    update: bool = Field(default=True, description="norm of the update; lr_control and fit-radii need it")
    update_cosine: bool = Field(
        default=True, description="cosine of consecutive updates; keeps the sample of the last one"
    )
    update_stride: int = Field(
        default=61,
        gt=0,
        description="every n-th element is measured, 1: all (costs two copies of the shard); odd, as the widths of models "
        "are even and would be sampled in the same few columns",
    )

    @model_validator(mode="after")
    def _odd(self) -> DiagnosticsConfig:
        if self.update_stride % 2 == 0:
            raise ValueError(f"update_stride = {self.update_stride} is even: take {self.update_stride + 1}")
        return self


class AlarmConfig(Settings):
    """Signs of a coming collapse, and what to do about each; all over windows of steps, none before half of one.

    warn: a log line and a row. hold: the weights are frozen (learning rate 0) for ``hold_steps`` steps, so that the fleets'
    data becomes on-policy again, and training goes on at ``hold_factor`` of the rate, for good. rollback: the learner starts
    again from the newest checkpoint that no alarm was raised at, nor within a window after it, as a new timeline and at
    ``hold_factor`` of the rate.
    """

    window: int = Field(default=10, gt=1, description="steps that the means look back")
    nll_positive: AlarmAction = Field(default="warn", description="the NLL of positives rises")
    nll_rise: float = Field(default=2.0, gt=1, description="times its lowest mean")
    rho: AlarmAction = Field(default="warn", description="negatives weigh as much as positives")
    rho_limit: float = Field(default=0.3, gt=0, description="mean")
    ballistic: AlarmAction = Field(default="warn", description="consecutive updates point the same way")
    ballistic_limit: float = Field(
        default=0.7, gt=0, lt=1, description="mean cosine, momentum taken out; a healthy run on `sort` has 0.2 to 0.45"
    )
    reward: AlarmAction = Field(default="warn", description="the reward collapses")
    reward_fall: float = Field(default=0.5, gt=0, lt=1, description="share of its best mean")
    entropy: AlarmAction = Field(default="warn", description="the entropy collapses while the reward falls")
    entropy_fall: float = Field(default=0.05, gt=0, lt=1, description="share of its first mean")
    non_finite: AlarmAction = Field(default="warn", description="losses or gradients are not finite")
    non_finite_steps: int = Field(default=3, gt=0, description="in one window")
    hold_steps: int = Field(default=20, gt=0)
    hold_factor: float = Field(default=0.5, gt=0, le=1, description="of the rate after a hold or a rollback")
    rollbacks: int = Field(default=3, ge=0, description="of the run's life; then such alarms hold")

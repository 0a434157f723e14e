"""Settings of the objective: the section [learner.objective] of a run file.

Objectives of other distributions are found by the entry-point group ``leeway.objectives``: a name, and a callable that takes
an ``ObjectiveConfig`` and returns a ``learner.objectives.Objective``. Their constants go into ``options``.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from learner.config.objectives_table import OBJECTIVES
from learner.config.presets import fill_objective
from runtime.settings import Settings

GROUP = "leeway.objectives"

_GENERAL = frozenset({"name", "preset", "advantage", "mean", "kl_coef", "kl_estimator", "entropy_coef"})


def plugins() -> dict[str, EntryPoint]:
    """Entry points of the objectives that installed distributions offer, by name. None of them is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _off(value: Any) -> Any:
    return None if value == "off" else value


class ObjectiveConfig(Settings):
    """The objective and its constants. Setting a constant that the objective does not read is an error."""

    name: str = Field(
        default="asympo",
        description="name of an objective, see docs/objectives.md, or of one that an installed distribution offers. Unset: "
        'the preset\'s; asympo with preset = "off"',
    )
    preset: Annotated[str | None, BeforeValidator(_off)] = Field(
        default=None,
        description="name of a table of settings (docs/objectives.md): what the file does not set comes from there, also "
        'outside of this section; "off": none. Unset: steady, or none where name is set',
    )
    advantage: Literal["mean", "std", "std_unbiased", "leave_one_out"] | None = Field(
        default=None,
        description="mean: reward minus the group's mean; std: that divided by the group's standard deviation; std_unbiased: "
        "by the one of divisor G - 1, as torch.std and verl; leave_one_out: reward minus the mean of the others. Unset: std "
        "for grpo, cispo, gspo and m2po, mean for all others",
    )
    mean: Literal["response", "group", "batch"] | None = Field(
        default=None,
        description="what a mean over tokens is over: their response, their group or the step; the first two are followed by "
        "means over responses and prompts. Unset: group for cispo, batch for opmd, dppo and drpo, response for spo, "
        "reinforce, positives, grpo, tis and m2po; the others have no choice",
    )
    scale_floor: float = Field(
        default=1e-3, gt=0, description="asympo: floor on the stop-gradient scale, in nats/token"
    )
    p_low: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="asympo: where A < 0, log p is clipped to at least log p_low (the paper's Appendix C)",
    )
    p_high: float | None = Field(
        default=None, gt=0, lt=1, description="asympo: where A >= 0, log p is clipped to at most log p_high"
    )
    rho_max: Annotated[float | None, BeforeValidator(_off)] = Field(
        default=0.1,
        gt=0,
        description="asympo: largest weight of negatives against positives over many steps (one step may exceed it); "
        '"off": no bound, as in the paper',
    )
    rho_decay: float = Field(
        default=0.9, ge=0, lt=1, description="asympo: decay of the exponential means behind rho_max"
    )
    spo_alpha: float = Field(default=0.2, ge=0, description="spo: weight of negative advantages")
    opmd_tau: float = Field(default=1.0, ge=0, description="opmd: the loss is divided by 1 + tau")
    asymre_shift: float = Field(
        default=0.1, ge=0, description="asymre: distance of the baseline V below the mean reward"
    )
    clip_low: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="ratios below 1 - clip_low are clipped; unset: grpo, dr_grpo 0.2, gspo 3e-4, cispo 1",
    )
    clip_high: float | None = Field(
        default=None,
        ge=0,
        description="ratios above 1 + clip_high are clipped; unset: grpo, dr_grpo 0.2, gspo 4e-4, cispo 4",
    )
    dual_clip: Annotated[float | None, BeforeValidator(_off)] = Field(
        default=3.0,
        gt=1,
        description="grpo, dr_grpo: where A < 0, the ratio counts as at most this, so that no token's slope is unbounded "
        '(verl\'s clip_ratio_c); "off": no bound, as in the papers',
    )
    dr_grpo_length: int | None = Field(
        default=None,
        gt=0,
        description="dr_grpo: constant divisor, the tokens of a response; unset: rollout.sampling.max_new_tokens of the run "
        "file, or 1024 without one",
    )
    tis_cap: float = Field(default=2.0, gt=0, description="tis: largest ratio")
    dppo_divergence: Literal["tv", "kl"] = Field(default="tv", description="dppo: total variation, or KL")
    dppo_low: float | None = Field(
        default=None,
        gt=0,
        description="dppo: largest divergence of tokens that A < 0 pushes down; unset: tv 0.15, kl 0.05",
    )
    dppo_high: float | None = Field(
        default=None,
        gt=0,
        description="dppo: largest divergence of tokens that A > 0 pushes up; unset: tv 0.15, kl 0.05",
    )
    dppo_kl: float = Field(
        default=0.0,
        ge=0,
        description="dppo: coefficient of (log ratio)^2, per token, also of masked ones, as in prime-rl",
    )
    drpo_delta: float = Field(default=12.5, gt=0, description="drpo: the larger, the weaker the penalty")
    m2po_threshold: float = Field(default=0.04, gt=0, description="m2po: largest mean of (log ratio)^2")
    m2po_over: Literal["response", "batch"] = Field(
        default="response",
        description="m2po: what that mean is over: each response; or, as in the paper, the step's tokens that A pushes "
        "further from the behaviour policy, for one more forward pass",
    )
    kl_coef: float = Field(
        default=0.0, ge=0, description="any but sft: coefficient of the KL to the frozen reference, per token"
    )
    kl_estimator: Literal["k3", "k3_weighted"] = Field(
        default="k3",
        description="estimate of that KL: k3, or k3 times the ratio (DeepSeek-V3.2), unbiased for tokens of older policies; "
        "for objectives with behaviour probabilities",
    )
    entropy_coef: float = Field(
        default=0.0, ge=0, description="any but sft: coefficient of the entropy bonus, per token"
    )
    options: dict[str, Any] = Field(default={}, description="constants of another distribution's objective")

    @property
    def recomputes(self) -> bool:
        """Whether the learner recomputes log-probabilities under the versions that generated the tokens.

        An objective of another distribution is not imported to find out: it counts as one that needs them.
        """
        return self.name not in OBJECTIVES or OBJECTIVES[self.name].needs_behaviour

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_preset(cls, values: Any) -> Any:
        return fill_objective(values)

    @model_validator(mode="after")
    def _known(self) -> ObjectiveConfig:
        if self.name not in OBJECTIVES and self.name not in (others := plugins()):
            known = ", ".join(sorted({*OBJECTIVES, *others}))
            raise ValueError(f"name = {self.name!r}: no such objective; known: {known}")
        return self

    @model_validator(mode="after")
    def _only_what_is_read(self) -> ObjectiveConfig:
        entry = OBJECTIVES.get(self.name)
        reads = _GENERAL | (entry.constants if entry is not None else frozenset({"options"}))
        for field, info in type(self).model_fields.items():
            if field not in reads and getattr(self, field) != info.default:
                owners = [name for name, entry in OBJECTIVES.items() if field in entry.constants]
                raise ValueError(
                    f"{field} = {getattr(self, field)!r}: {self.name} does not read it, only "
                    f"{', '.join(owners) or 'objectives of other distributions'}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _mean_is_chosen(self) -> ObjectiveConfig:
        if self.mean is None:
            return self
        entry = OBJECTIVES.get(self.name)
        reason = "its own code decides" if entry is None else entry.fixed_mean
        if reason:
            free = ", ".join(name for name, entry in OBJECTIVES.items() if not entry.fixed_mean)
            raise ValueError(f"mean = {self.mean!r}: {self.name} has no choice: {reason}; leave it out, or use {free}")
        return self

    @model_validator(mode="after")
    def _estimator_is_used(self) -> ObjectiveConfig:
        if self.kl_estimator == "k3":
            return self
        if not self.kl_coef:
            raise ValueError(
                f"kl_estimator = {self.kl_estimator!r}: nothing reads it while kl_coef = 0; set kl_coef or drop it"
            )
        if not self.recomputes:
            raise ValueError(
                f"kl_estimator = {self.kl_estimator!r}: {self.name} has no behaviour probabilities to take a ratio with; use "
                "'k3', or an objective that needs them"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveConfig:
        if self.p_low is not None and self.p_high is not None and self.p_low >= self.p_high:
            raise ValueError(f"p_low = {self.p_low} must be below p_high = {self.p_high}")
        if self.name == "dr_grpo" and self.advantage in ("std", "std_unbiased"):
            raise ValueError(
                f"advantage = {self.advantage!r}: dr_grpo is GRPO without the standard deviation; use name = 'grpo'"
            )
        accepts = self.name not in OBJECTIVES or OBJECTIVES[self.name].accepts_terms
        if not accepts and (self.kl_coef or self.entropy_coef or self.advantage):
            raise ValueError(f"{self.name} is for warm starts: it takes no advantage, kl_coef or entropy_coef")
        return self

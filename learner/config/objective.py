"""Settings of the objective: the section [learner.objective] of a run file.

Objectives of other distributions are found by the entry-point group ``leeway.objectives``: a name, and a callable that takes
an ``ObjectiveConfig`` and returns a ``learner.objectives.Objective``. Their constants go into ``options``.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from learner.config.objectives_table import OBJECTIVES
from runtime.settings import Settings

GROUP = "leeway.objectives"

_GENERAL = frozenset({"name", "preset", "advantage", "kl_coef", "entropy_coef"})


def plugins() -> dict[str, EntryPoint]:
    """Entry points of the objectives that installed distributions offer, by name. None of them is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _off(value: Any) -> Any:
    return None if value == "off" else value


class ObjectiveConfig(Settings):
    """The objective and its constants. Setting a constant that the objective does not read is an error."""

    name: str = Field(
        default="asympo",
        description="name of an objective, see docs/objectives.md, or of one that an installed distribution offers",
    )
    preset: str | None = Field(
        default=None,
        description="name of a table of settings (docs/objectives.md): what the file does not set itself comes from there, also "
        "outside of this section",
    )
    advantage: Literal["mean", "std", "leave_one_out"] | None = Field(
        default=None,
        description="mean: reward minus the group's mean; std: that divided by the group's standard deviation; "
        "leave_one_out: reward minus the mean of the others. Unset: std for grpo, cispo, gspo and m2po, mean for all others",
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
    dr_grpo_length: int = Field(default=1024, gt=0, description="dr_grpo: constant divisor, the tokens of a response")
    tis_cap: float = Field(default=2.0, gt=0, description="tis: largest ratio")
    dppo_divergence: Literal["tv", "kl"] = Field(default="tv", description="dppo: total variation, or KL")
    dppo_bound: float | None = Field(
        default=None, gt=0, description="dppo: largest divergence; unset: tv 0.15, kl 0.05"
    )
    drpo_delta: float = Field(default=12.5, gt=0, description="drpo: the larger, the weaker the penalty")
    m2po_threshold: float = Field(default=0.04, gt=0, description="m2po: largest mean of (log ratio)^2 in a response")
    kl_coef: float = Field(
        default=0.0, ge=0, description="any but sft: coefficient of the KL to the frozen reference, per token"
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
    def _consistent(self) -> ObjectiveConfig:
        if self.p_low is not None and self.p_high is not None and self.p_low >= self.p_high:
            raise ValueError(f"p_low = {self.p_low} must be below p_high = {self.p_high}")
        if self.name == "dr_grpo" and self.advantage == "std":
            raise ValueError("advantage = 'std': dr_grpo is GRPO without the standard deviation; use name = 'grpo'")
        accepts = self.name not in OBJECTIVES or OBJECTIVES[self.name].accepts_terms
        if not accepts and (self.kl_coef or self.entropy_coef or self.advantage):
            raise ValueError(f"{self.name} is for warm starts: it takes no advantage, kl_coef or entropy_coef")
        return self

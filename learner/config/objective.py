"""Configuration of the objective. Importable without torch.

Objectives of other distributions are found by the entry-point group ``leeway.objectives``: a name, and a callable that takes
an ``ObjectiveConfig`` and returns a ``learner.objectives.Objective``. Their constants go into ``options``.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from runtime.settings import Settings

GROUP = "leeway.objectives"

_CLIP = frozenset({"clip_low", "clip_high"})
READS: dict[str, frozenset[str]] = {  # which of the constants below each objective reads
    "asympo": frozenset({"scale_floor", "p_low", "p_high", "rho_max", "rho_decay"}),
    "spo": frozenset({"spo_alpha"}),
    "reinforce": frozenset(),
    "positives": frozenset(),
    "opmd": frozenset({"opmd_tau"}),
    "asymre": frozenset({"asymre_shift"}),
    "grpo": _CLIP,
    "dr_grpo": _CLIP | {"dr_grpo_length"},
    "tis": frozenset({"tis_cap"}),
    "cispo": _CLIP,
    "gspo": _CLIP,
    "topr": frozenset(),
    "dppo": frozenset({"dppo_divergence", "dppo_bound"}),
    "drpo": frozenset({"drpo_delta"}),
    "m2po": frozenset({"m2po_threshold"}),
    "sft": frozenset(),
}
_GENERAL = frozenset({"name", "advantage", "kl_coef", "entropy_coef"})


def plugins() -> dict[str, EntryPoint]:
    """Objectives that installed distributions offer, by name. None of them is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _off(value: Any) -> Any:
    return None if value == "off" else value


class ObjectiveConfig(Settings):
    """The objective and its constants. A constant that the objective does not read must be left alone."""

    name: str = Field(default="asympo", description="an objective of ours, or of an installed distribution")
    advantage: Literal["mean", "std", "leave_one_out"] | None = Field(
        default=None,
        description="reward minus the group's mean; also divided by its standard deviation; minus the others' mean. Unset: "
        "the objective's own: std for grpo, cispo, gspo and m2po, mean for all others",
    )
    scale_floor: float = Field(default=1e-3, gt=0, description="asympo: floor on the stop-gradient scale, nats/token")
    p_low: float | None = Field(default=None, gt=0, lt=1, description="asympo: clip of log p where A < 0 (Appendix C)")
    p_high: float | None = Field(default=None, gt=0, lt=1, description="asympo: clip of log p where A >= 0")
    rho_max: Annotated[float | None, BeforeValidator(_off)] = Field(
        default=0.1,
        gt=0,
        description='asympo: most that negatives may weigh against positives; "off": no bound, the paper\'s formula',
    )
    rho_decay: float = Field(default=0.9, ge=0, lt=1, description="asympo: of the exponential means behind rho_max")
    spo_alpha: float = Field(default=0.2, ge=0, description="spo: weight of negative advantages")
    opmd_tau: float = Field(default=1.0, ge=0, description="opmd: the loss is divided by 1 + tau")
    asymre_shift: float = Field(
        default=0.1, ge=0, description="asymre: the baseline V lies so far below the mean reward"
    )
    clip_low: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="ratios below 1 - clip_low are clipped; grpo, dr_grpo 0.2, gspo 3e-4, cispo 1",
    )
    clip_high: float | None = Field(
        default=None, ge=0, description="ratios above 1 + clip_high are clipped; grpo, dr_grpo 0.2, gspo 4e-4, cispo 4"
    )
    dr_grpo_length: int = Field(default=1024, gt=0, description="dr_grpo: constant divisor, the tokens of a response")
    tis_cap: float = Field(default=2.0, gt=0, description="tis: largest ratio")
    dppo_divergence: Literal["tv", "kl"] = "tv"
    dppo_bound: float | None = Field(default=None, gt=0, description="dppo: largest divergence; tv 0.15, kl 0.05")
    drpo_delta: float = Field(default=12.5, gt=0, description="drpo: the larger, the weaker the penalty")
    m2po_threshold: float = Field(default=0.04, gt=0, description="m2po: largest mean of (log ratio)^2 in a response")
    kl_coef: float = Field(default=0.0, ge=0, description="any: KL to the frozen reference, per token")
    entropy_coef: float = Field(default=0.0, ge=0, description="any: entropy bonus, per token")
    options: dict[str, Any] = Field(default={}, description="constants of another distribution's objective")

    @model_validator(mode="after")
    def _known(self) -> ObjectiveConfig:
        if self.name not in READS and self.name not in (others := plugins()):
            raise ValueError(f"name = {self.name!r}: no such objective; known: {', '.join(sorted({*READS, *others}))}")
        return self

    @model_validator(mode="after")
    def _only_what_is_read(self) -> ObjectiveConfig:
        reads = _GENERAL | READS.get(self.name, frozenset({"options"}))
        for field, info in type(self).model_fields.items():
            if field not in reads and getattr(self, field) != info.default:
                owners = [name for name, fields in READS.items() if field in fields] or ["objectives of others"]
                raise ValueError(
                    f"{field} = {getattr(self, field)!r}: {self.name} does not read it ({', '.join(owners)})"
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveConfig:
        if self.p_low is not None and self.p_high is not None and self.p_low >= self.p_high:
            raise ValueError(f"p_low = {self.p_low} must be below p_high = {self.p_high}")
        if self.name == "dr_grpo" and self.advantage == "std":
            raise ValueError("advantage = 'std': dr_grpo is GRPO without the standard deviation; use name = 'grpo'")
        if self.name == "sft" and (self.kl_coef or self.entropy_coef or self.advantage):
            raise ValueError("sft is for warm starts: it takes no advantage, kl_coef or entropy_coef")
        return self

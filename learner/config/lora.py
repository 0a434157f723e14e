"""Settings of low-rank adapters: the section [learner.lora] of a run file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from runtime.settings import Settings

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

PROJECTIONS: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraConfig(Settings):
    """Low-rank adapters, which are trained in place of the model's weights.

    An adapter of a projection W [out, in] is two matrices, A [rank, in] and B [out, rank]: the learner computes with W +
    (alpha / rank) B A, and W stays what it was.
    """

    rank: int = Field(gt=0, description="rank of every adapter, such as 32")
    alpha: float = Field(gt=0, description="an adapter is scaled by alpha / rank")
    targets: tuple[Projection, ...] = Field(
        default=PROJECTIONS,
        min_length=1,
        description="projections that have an adapter in every layer; experts of a mixture get none: there, those of the "
        "attention only",
    )

    @property
    def scaling(self) -> float:
        """Factor of the product B A."""
        return self.alpha / self.rank

    @field_validator("targets")
    @classmethod
    def _once_and_in_order(cls, targets: tuple[Projection, ...]) -> tuple[Projection, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError(f"{', '.join(targets)}: name each projection once")
        return tuple(name for name in PROJECTIONS if name in targets)

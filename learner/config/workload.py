"""What the learner's memory depends on besides the model: the layout and how much goes through it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learner.config.architectures import chunk_layers
from learner.config.learner import LearnerConfig, ParallelConfig
from learner.config.lora import LoraConfig
from learner.config.objectives_table import OBJECTIVES

WIDTH = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Workload:
    """What the learner is asked to do.

    Attributes:
        parallel: the layout.
        world: number of ranks.
        tokens: most tokens of a micro-batch.
        dtype: "float32" or "bfloat16", of weights and activations.
        recompute: "none", "selective" or "full".
        gradients: "float32" or "bfloat16", in which gradients are added up.
        fused: whether a CUDA device uses fused kernels.
        grouped: whether a layer's experts are computed together.
        published: dtype of published versions.
        deltas: whether versions hold changes, for which a rank keeps what it published last.
        averaged: whether what is published is a running average of the weights.
        projects: whether gradients are projected (lr_control.mode = "gac"), for which a rank keeps the last one.
        device: where the model is.
        versions: earlier versions that log-probabilities are recomputed under; 0: none.
        reference: whether log-probabilities are computed under a frozen reference.
        cache_bytes: learner.behaviour.cache_bytes.
        max_staleness: learner.max_staleness.
        cache_room: most bytes that a rank caches unless told otherwise.
        lora: the adapters that are trained; None: the weights themselves are.
        form: what is published of adapters: "merged" or "adapter".
    """

    parallel: ParallelConfig
    world: int
    tokens: int = 16_384
    dtype: str = "bfloat16"
    recompute: str = "full"
    gradients: str = "float32"
    fused: bool = True
    grouped: bool = False
    published: str = "bfloat16"
    deltas: bool = False
    averaged: bool = False
    projects: bool = False
    device: Literal["cpu", "cuda"] = "cuda"
    versions: int = 0
    reference: bool = False
    cache_bytes: int | None = None
    max_staleness: int = 0
    cache_room: int = 0
    lora: LoraConfig | None = None
    form: Literal["merged", "adapter"] = "merged"

    @classmethod
    def of(cls, learner: LearnerConfig, world: int, device: Literal["cpu", "cuda"], cache_room: int) -> Workload:
        """The workload of a learner's settings."""
        publish, objective = learner.publish, OBJECTIVES.get(learner.objective.name)
        recomputes = learner.behaviour.drift_every > 0 or (objective is not None and objective.needs_behaviour)
        return cls(
            parallel=learner.parallel,
            world=world,
            tokens=learner.micro_batch_tokens,
            dtype=learner.dtype,
            recompute=learner.recompute,
            gradients=learner.gradients,
            fused=learner.fused_kernels,
            grouped=learner.grouped_experts,
            published=publish.weights_dtype,
            deltas=publish.full_every > 1,
            averaged=publish.average > 0,
            projects=learner.lr_control.projects_above is not None,
            device=device,
            versions=learner.expiry_bound + 1 if recomputes else 0,
            reference=learner.objective.kl_coef > 0 or (objective is not None and objective.needs_reference),
            cache_bytes=learner.behaviour.cache_bytes,
            max_staleness=learner.max_staleness,
            cache_room=cache_room,
            lora=learner.lora,
            form=publish.form,
        )

    @property
    def uses_fused_kernels(self) -> bool:
        """Whether the model and its optimizer are computed with fused kernels."""
        return self.fused and self.device == "cuda"

    @property
    def width(self) -> int:
        """Bytes of a weight or an activation."""
        return WIDTH[self.dtype]

    @property
    def merges(self) -> bool:
        """Whether what is published is the whole model."""
        return self.lora is None or self.form == "merged"

    @property
    def copied(self) -> str:
        """Data type in which what is trained is copied for a version: adapters are added to weights in float32."""
        return "float32" if self.lora is not None and self.merges else self.published

    @property
    def sequence(self) -> int:
        """Ranks over which sequence parallelism divides what tensor parallelism copies."""
        return self.parallel.tensor if self.parallel.sequence else 1


def stage_layers(layers: int, parallel: ParallelConfig, stage: int) -> list[int]:
    """Numbers of the layers that a pipeline stage has.

    Args:
        layers: the model's.
        parallel: the layout.
        stage: from 0.
    """
    chunks = chunk_layers(layers, parallel)
    return [layer for own in chunks[stage :: parallel.pipeline] for layer in own]

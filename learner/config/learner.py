"""Settings of the learner's ranks: the section [learner] of a run file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from learner.config.behaviour import BehaviourConfig
from learner.config.control import AlarmConfig, DiagnosticsConfig, LrControlConfig
from learner.config.objective import ObjectiveConfig
from learner.config.queue import QueueConfig
from runtime.endpoint_config import StatusConfig, TraceConfig
from runtime.settings import Settings


class ParallelConfig(Settings):
    """How the model is cut. Data parallelism is what remains of the world size."""

    tensor: int = Field(default=1, gt=0)
    pipeline: int = Field(default=1, gt=0)
    context: int = Field(
        default=1, gt=0, description="ranks that share a micro-batch's tokens, each a part of every sequence"
    )
    expert: int = Field(
        default=1,
        gt=0,
        description="ranks that share the experts of a mixture, whole ones each; not a factor of the world "
        "size: they are taken from the tensor, context and data ranks of a stage",
    )
    virtual_pipeline: int = Field(
        default=1, gt=0, description="pieces of the model on each pipeline stage (interleaved schedule)"
    )
    sequence: bool = Field(default=False, description="Megatron sequence parallelism; needs tensor > 1")

    @property
    def ranks(self) -> int:
        """The fewest processes that can be cut this way; every world size is a multiple."""
        return self.pipeline * math.lcm(self.tensor * self.context, self.expert)

    @model_validator(mode="after")
    def _parts_that_need_others(self) -> ParallelConfig:
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence parallelism needs tensor > 1")
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError(f"virtual_pipeline = {self.virtual_pipeline} needs pipeline > 1")
        return self


class OptimizerConfig(Settings):
    """AdamW."""

    lr: float = Field(default=1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_grad: float = Field(default=1.0, gt=0, description="global gradient norm")
    warmup_steps: int = Field(default=0, ge=0, description="linear learning-rate warm-up")
    decay: Literal["constant", "linear"] = Field(
        default="constant", description="after the warm-up; linear: to zero at learner.steps"
    )


class WarmupConfig(Settings):
    """Supervised warm start on demonstrations, by the same learner, before the first version is published."""

    demonstrations: Path = Field(description='JSON lines: {"prompt": [ids], "response": [ids]}')
    target: float = Field(
        gt=0, lt=1, description="stop when the mean probability of a whole reference response reaches this"
    )
    max_steps: int = Field(default=400, gt=0)
    batch: int = Field(default=128, gt=0, description="demonstrations per step")
    held_out: int = Field(default=256, gt=0, description="demonstrations kept aside to measure the target")
    every: int = Field(default=5, gt=0, description="steps between measurements")
    lr: float = Field(default=1e-3, gt=0)


class CheckpointConfig(Settings):
    """Resumable checkpoints."""

    dir: Path
    every: int = Field(default=50, gt=0, description="steps")
    keep: int = Field(default=2, gt=0)


class PublishConfig(Settings):
    """Versions for the fleets."""

    dir: Path
    url: str | None = Field(
        default=None,
        description="s3://..., gs://..., file:///...: versions are copied there, from dir, and announced there (fsspec)",
    )
    url_options: dict[str, Any] = Field(default={}, description="of the fsspec client: endpoint, credentials, timeouts")
    every: int = Field(default=1, gt=0, description="steps")
    keep: int = Field(default=4, gt=1, description="newest versions kept")
    keep_every: int = Field(default=0, ge=0, description="also keep every n-th version; 0: none")
    dtype: Literal["float32", "bfloat16"] = "float32"
    full_every: int = Field(
        default=1,
        gt=0,
        description="every n-th version is whole, the others hold what changed since the one before; 1: all are whole",
    )


class LearnerConfig(Settings):
    """The learner's ranks."""

    model: Path = Field(description="Hugging Face directory of the initial policy")
    queue: QueueConfig
    steps: int = Field(gt=0)
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    groups_per_step: int = Field(default=16, gt=0)
    max_staleness: int = Field(default=4, ge=0)
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="fleet -> share of the learner, relative; 1 for those not named"
    )
    hold_staleness: int = Field(default=0, ge=0, description="train only while this many steps' groups wait (studies)")
    micro_batch_tokens: int = Field(default=16_384, gt=0, description="most tokens in one micro-batch")
    min_micro_batches: int | None = Field(
        default=None,
        gt=0,
        description="per step and data-parallel rank; default: parallel.pipeline, to fill its stages",
    )
    take_timeout_s: float = Field(
        default=600.0, gt=0, description="without a full batch for so long, stop with an error"
    )
    collective_timeout_s: float = Field(default=300.0, gt=0)
    watchdog_s: float | None = Field(
        default=None,
        gt=0,
        description="a rank in which nothing moves for so long writes its stacks and ends; above the longest step; "
        "default: 2 * collective_timeout_s",
    )
    stop_grace_s: float = Field(
        default=60.0,
        gt=0,
        description="between SIGTERM and SIGKILL: for the step under way, a last checkpoint and the publication under way",
    )
    parallel: ParallelConfig = ParallelConfig()
    layers: Literal["auto", "own", "transformer_engine"] = Field(
        default="auto",
        description="linear layers and norms: auto: TransformerEngine's where it and CUDA exist and dtype is bfloat16",
    )
    recompute: Literal["none", "selective", "full"] = Field(
        default="none",
        description="activations computed again in the backward pass instead of kept: selective: the attention's; full: all "
        "but each layer's input",
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    warmup: WarmupConfig | None = None
    checkpoint: CheckpointConfig
    publish: PublishConfig
    lr_control: LrControlConfig = LrControlConfig()
    alarms: AlarmConfig = AlarmConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    metrics_dir: Path
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=("tensorboard",), description="where step rows go besides learner.jsonl; each must be installed"
    )
    status: StatusConfig = StatusConfig()
    traces: TraceConfig = TraceConfig()

    @property
    def silence_s(self) -> float:
        """Nothing moves on a rank for so long: it is stuck."""
        return self.watchdog_s or 2 * self.collective_timeout_s

    @model_validator(mode="after")
    def _held_within_bound(self) -> LearnerConfig:
        if self.hold_staleness > self.max_staleness:
            raise ValueError(
                f"hold_staleness = {self.hold_staleness} is above max_staleness = {self.max_staleness}: all would expire"
            )
        return self

    @model_validator(mode="after")
    def _enough_to_interleave(self) -> LearnerConfig:
        stages, least = self.parallel.pipeline, self.min_micro_batches
        if self.parallel.virtual_pipeline > 1 and least is not None and least < stages:
            raise ValueError(
                f"min_micro_batches = {least} is below parallel.pipeline = {stages}: the interleaved schedule "
                "(parallel.virtual_pipeline) needs a micro-batch for every stage"
            )
        return self

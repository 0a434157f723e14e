"""Settings of the learner's ranks: the section [learner] of a run file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from learner.config.behaviour import BehaviourConfig
from learner.config.control import AlarmConfig, DiagnosticsConfig, LrControlConfig
from learner.config.lateness import check_expire_after, expiry_bound
from learner.config.lora import LoraConfig
from learner.config.mirror import LOCAL, MirrorConfig
from learner.config.objective import ObjectiveConfig
from learner.config.presets import fill_learner
from learner.config.queue import QueueConfig
from learner.config.refill import RefillConfig
from runtime.endpoint_config import StatusConfig, TraceConfig
from runtime.settings import Settings


class ParallelConfig(Settings):
    """Sizes of the parallel layout. The data-parallel size is the world size divided by the others."""

    tensor: int = Field(
        default=1,
        gt=0,
        description="ranks that share every layer: it must divide the attention heads and the width of dense layers, and "
        "divide the key/value heads or be a multiple of them; a vocabulary that it does not divide is padded",
    )
    pipeline: int = Field(
        default=1,
        gt=0,
        description="stages into which the layers are cut, each on ranks of its own; if it does not divide them, the first "
        "and the last stage have the fewest",
    )
    context: int = Field(
        default=1, gt=0, description="ranks that share a micro-batch's tokens: each has chunks of every sequence"
    )
    expert: int = Field(
        default=1,
        gt=0,
        description="ranks that share the experts of a mixture, each with whole experts; not a factor of the world "
        "size: they are taken from the tensor, context and data ranks of a stage",
    )
    virtual_pipeline: int = Field(
        default=1, gt=0, description="model chunks on each pipeline stage (interleaved schedule)"
    )
    sequence: bool = Field(default=False, description="Megatron sequence parallelism; needs tensor > 1")

    @property
    def ranks(self) -> int:
        """Fewest processes that this layout needs; every possible world size is a multiple of it."""
        return self.pipeline * math.lcm(self.tensor * self.context, self.expert)

    @model_validator(mode="after")
    def _parts_that_need_others(self) -> ParallelConfig:
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence parallelism needs tensor > 1")
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError(f"virtual_pipeline = {self.virtual_pipeline} needs pipeline > 1")
        return self


class OptimizerConfig(Settings):
    """Settings of AdamW and of the learning-rate schedule."""

    lr: float = Field(default=1e-6, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="decay of Adam's means of the gradient and of its square, per step"
    )
    eps: float = Field(default=1e-8, gt=0, description="added to the root of Adam's mean square")
    weight_decay: float = Field(
        default=0.0, ge=0, description="decoupled (AdamW's): times the learning rate, each step"
    )
    clip_grad: float = Field(
        default=1.0, gt=0, description="largest global L2 norm of the gradient; a larger gradient is scaled down to it"
    )
    expert_bias_rate: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="how far the correction bias of each expert of a sigmoid router moves in a step, such as 0.001: up where "
        "the expert was sent fewer tokens than the mean of its layer, down where it was sent more; no gradient moves it. "
        "0: it stays as it is",
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear learning-rate warm-up")
    decay: Literal["constant", "linear"] = Field(
        default="constant", description="learning rate after the warm-up; linear: falls to zero at learner.steps"
    )


class WarmupConfig(Settings):
    """Supervised warm start on demonstrations, before the first version is published."""

    demonstrations: Path = Field(description='JSON lines: {"prompt": [ids], "response": [ids]}')
    target: float = Field(
        gt=0,
        lt=1,
        description="the warm start ends when the mean probability of a whole reference response reaches this",
    )
    max_steps: int = Field(
        default=400, gt=0, description="steps after which the warm start ends, the target reached or not"
    )
    batch: int = Field(default=128, gt=0, description="demonstrations per step")
    held_out: int = Field(
        default=256, gt=0, description="demonstrations that are not trained on and measure the target"
    )
    every: int = Field(default=5, gt=0, description="steps between measurements")
    lr: float = Field(default=1e-3, gt=0, description="learning rate of the warm start")


class CheckpointConfig(Settings):
    """Where and how often checkpoints are saved, and how many are kept."""

    dir: Path = Field(description="directory of the checkpoints, shared by all ranks")
    every: int = Field(default=50, gt=0, description="steps between checkpoints")
    keep: int = Field(default=2, gt=0, description="newest checkpoints kept, besides the newest healthy one")


class PublishConfig(Settings):
    """Publication of versions: where, how often, in what form, and how many are kept."""

    dir: Path = Field(description="directory of the versions, shared by all ranks; what mirrors are copied from")
    mirror: tuple[MirrorConfig, ...] = Field(
        default=(),
        description="copies of the versions, such as one a region (a table [[learner.publish.mirror]] each), for fleets "
        "without the learner's disk",
    )
    every: int = Field(
        default=1,
        gt=0,
        description="steps between versions; fewer when one is written for longer than that: the newest",
    )
    keep: int = Field(default=4, gt=1, description="newest versions kept")
    keep_every: int = Field(default=0, ge=0, description="also keep every n-th version; 0: none")
    best: str | None = Field(
        default=None,
        description="also keep the best version by this metric of its evaluations, name:sampling:metric, such as "
        "sort:greedy:mean@1; a run file with [eval] sets it (eval.best). Unset: none",
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="data type of published weights; default: learner.dtype"
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay per step of an exponential average of the weights, such as 0.9: it is published, evaluated "
        "and exported, while the gradient is taken at the weights themselves; costs 4 bytes a parameter, shared out as the "
        "optimizer's state is. 0: off, the weights themselves are published",
    )
    form: Literal["merged", "adapter"] = Field(
        default="merged",
        description="what a version is with [learner.lora]; merged: the whole model, its adapters added to its weights; "
        "adapter: the adapters alone, for engines that load them beside the model",
    )
    full_every: int = Field(
        default=1,
        gt=0,
        description="every n-th version is complete, the others hold the changes since the one before; 1: all are complete",
    )

    @property
    def weights_dtype(self) -> Literal["float32", "bfloat16"]:
        """Data type of published weights: ``dtype``, which a learner's settings have filled in."""
        return self.dtype or "float32"

    @field_validator("mirror")
    @classmethod
    def _have_names(cls, mirrors: tuple[MirrorConfig, ...]) -> tuple[MirrorConfig, ...]:
        names = [mirror.name for mirror in mirrors]
        if LOCAL in names:
            raise ValueError(f"name = {LOCAL!r} is the name of the learner's own disk: give the mirror another one")
        if len(names) != len(set(names)):
            raise ValueError(f"names {', '.join(names)}: each mirror needs a name of its own")
        return mirrors


def check_hold_staleness(hold_staleness: int, max_staleness: int, section: str = "") -> None:
    """Raises ValueError when so many groups would be held that leases never let them wait.

    Args:
        hold_staleness: the setting of that name.
        max_staleness: the setting of that name.
        section: prefix of both settings' names in the message, such as ``learner.``.
    """
    if hold_staleness > max_staleness:
        raise ValueError(
            f"{section}hold_staleness = {hold_staleness} is above {section}max_staleness = {max_staleness}: leases "
            f"never let so many groups wait; lower {section}hold_staleness, or raise {section}max_staleness"
        )


class LearnerConfig(Settings):
    """Settings of every rank of the learner."""

    model: Path = Field(description="Hugging Face directory of the initial policy")
    queue: QueueConfig
    steps: int = Field(gt=0, description="optimizer steps of the whole run, after which it has finished")
    seed: int = Field(default=0, description="of everything that the learner draws")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="data type of weights and activations; the optimizer keeps float32 beside bfloat16",
    )
    groups_per_step: int = Field(
        default=16, gt=0, description="groups (prompts) of an optimizer step; with learner.refill those with a contrast"
    )
    refill: RefillConfig = RefillConfig()
    max_staleness: int = Field(
        default=4, ge=0, description="optimizer steps; leases keep fleets within it, and an older group is late"
    )
    late: Literal["train", "expire"] = Field(
        default="train",
        description="a late group; train: it is trained up to expire_after, so that what is slow to make (long responses, "
        "hard prompts) is not lost; expire: it is dropped, and counted",
    )
    expire_after: int | None = Field(
        default=None,
        ge=0,
        description="optimizer steps, with late = train; an older group expires, and gateways refuse it. Default: "
        "8 * max_staleness; at most max_staleness + 4 where the objective recomputes log-probabilities, since a version "
        "stays on disk for as long as groups of it may be trained",
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="relative share of the learner of each fleet, by its name; 1 for the others"
    )
    hold_staleness: int = Field(
        default=0,
        ge=0,
        description="train only while groups for this many steps wait in the queue (for experiments; exact with "
        "learner.refill.enabled = false, since with refill steps consume different numbers of groups)",
    )
    micro_batch_tokens: int = Field(default=16_384, gt=0, description="most tokens in one micro-batch")
    min_micro_batches: int | None = Field(
        default=None,
        gt=0,
        description="fewest micro-batches per step and data-parallel rank; default: parallel.pipeline, to fill its stages",
    )
    take_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="seconds without a full batch after which the learner ends with an error, or makes the step if it has "
        "taken groups_per_step groups of any kind (learner.refill); default: it waits without limit, and its log says so",
    )
    collective_timeout_s: float = Field(
        default=300.0, gt=0, description="limit of a collective operation; a rank that waits longer ends"
    )
    watchdog_s: float | None = Field(
        default=None,
        gt=0,
        description="seconds without progress after which a rank writes its stacks and ends; must exceed the longest step; "
        "default: 2 * collective_timeout_s",
    )
    stop_grace_s: float = Field(
        default=60.0,
        gt=0,
        description="seconds between SIGTERM and SIGKILL, for the current step, a checkpoint and the current publication",
    )
    parallel: ParallelConfig = ParallelConfig()
    layers: Literal["auto", "own", "transformer_engine"] = Field(
        default="own",
        description="linear layers and norms; transformer_engine: its own, which no test on a GPU has passed with yet; auto: "
        "TransformerEngine's if it and CUDA are available and dtype is bfloat16",
    )
    fused_kernels: bool = Field(
        default=True,
        description="on a CUDA device: RMSNorm, gated activation, rotary positions and AdamW in one kernel each, and in "
        "bfloat16 without parallel.context one attention call a layer whatever the row's lengths. Compiling takes seconds, "
        "once, and needs a C compiler; false: plain operators",
    )
    grouped_experts: bool = Field(
        default=True,
        description="a mixture's experts; true: a layer's together, on a CUDA device in bfloat16 by torch's grouped product, "
        "elsewhere one product after another; false: one MLP after another. Weights, checkpoints and versions are the same",
    )
    replay_routing: bool = Field(
        default=False,
        description="a mixture's tokens go to the experts that the engine chose, where a group says so (a worker's "
        "engine.return_routed_experts); their weights are those of the current router, and other tokens go where it sends "
        "them. So for training, recomputed log-probabilities and the measurement of drift",
    )
    overlap: bool | None = Field(
        default=None,
        description="reduce gradients while the backward pass goes on, and gather weights while the next forward pass does; "
        "default: on CUDA devices, where several data or context ranks share the optimizer",
    )
    gradients: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="data type in which gradients are added up over micro-batches and ranks; bfloat16, with dtype = bfloat16 "
        "only, halves their memory and traffic and loses digits",
    )
    recompute: Literal["none", "selective", "full"] = Field(
        default="none",
        description="activations that the backward pass recomputes instead of keeping; selective: outputs "
        "of norms, and the products of gated MLPs, which are cheap: a third of all with fused kernels and our own layers; "
        "full: all but each layer's input",
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig | None = None
    warmup: WarmupConfig | None = None
    checkpoint: CheckpointConfig
    publish: PublishConfig
    lr_control: LrControlConfig = LrControlConfig()
    alarms: AlarmConfig = AlarmConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    metrics_dir: Path = Field(description="where learner.jsonl and the files of TensorBoard are")
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=("tensorboard",),
        description="where step rows are written besides learner.jsonl; each must be installed",
    )
    status: StatusConfig = StatusConfig()
    traces: TraceConfig = TraceConfig()

    @property
    def silence_s(self) -> float:
        """Seconds without progress after which a rank counts as stuck."""
        return self.watchdog_s or 2 * self.collective_timeout_s

    @property
    def most_groups_per_step(self) -> int:
        """The most groups that a step takes, those included that it trains nothing of."""
        return self.groups_per_step * (self.refill.most if self.refill.enabled else 1)

    @property
    def expiry_bound(self) -> int:
        """Staleness in optimizer steps above which groups expire; at least max_staleness."""
        return expiry_bound(self.max_staleness, self.late, self.expire_after, self.objective)

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_preset(cls, values: Any) -> Any:
        return fill_learner(values)

    @field_validator("publish")
    @classmethod
    def _published_as_trained(cls, publish: PublishConfig, given: ValidationInfo) -> PublishConfig:
        """Fills in the data type of published weights: in another one they would be rounded, or be twice as large."""
        return publish if publish.dtype else publish.model_copy(update={"dtype": given.data.get("dtype")})

    @model_validator(mode="after")
    def _bounds_agree(self) -> LearnerConfig:
        check_hold_staleness(self.hold_staleness, self.max_staleness)
        check_expire_after(self.expire_after, self.max_staleness, self.late)
        return self

    @model_validator(mode="after")
    def _gradients_are_no_wider_than_needed(self) -> LearnerConfig:
        if self.gradients == "bfloat16" and self.dtype != "bfloat16":
            raise ValueError(
                f'gradients = "bfloat16" with dtype = "{self.dtype}": they would be coarser than the weights; set dtype = '
                '"bfloat16", or gradients = "float32"'
            )
        return self

    @model_validator(mode="after")
    def _adapters_to_publish(self) -> LearnerConfig:
        if self.publish.form == "adapter" and self.lora is None:
            raise ValueError(
                'publish.form = "adapter" without [learner.lora]: there are no adapters to publish; set form = "merged", or '
                "add [learner.lora] with rank and alpha"
            )
        if self.publish.form == "adapter" and self.publish.full_every > 1:
            raise ValueError(
                f'publish.full_every = {self.publish.full_every} with publish.form = "adapter": adapters are published '
                "complete, without deltas; set full_every = 1"
            )
        return self

    @model_validator(mode="after")
    def _adapters_have_no_bias(self) -> LearnerConfig:
        if self.lora is not None and self.optimizer.expert_bias_rate:
            raise ValueError(
                f"optimizer.expert_bias_rate = {self.optimizer.expert_bias_rate:g} with [learner.lora]: only adapters are "
                "trained, and the correction bias is no part of them; set it to 0, or train all weights"
            )
        return self

    @model_validator(mode="after")
    def _weights_for_the_rate(self) -> LearnerConfig:
        if self.lr_control.mode == "ess" and not self.objective.recomputes:
            raise ValueError(
                f'lr_control.mode = "ess" with objective.name = {self.objective.name!r}: ess needs importance weights, which '
                'only objectives that need mu have, as grpo; use mode = "drift", which needs none'
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

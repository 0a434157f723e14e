"""One optimizer step: forward and backward through the pipeline, a check that all is finite, the update."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.config import OptimizerConfig
from learner.config.control import DiagnosticsConfig
from learner.megatron.model.packed_model import Policy
from learner.megatron.model.routing_replay import ReplayCounts
from learner.megatron.parallel import Ranks
from learner.megatron.patches import adam_step
from learner.megatron.patches.norm_gradients import norm_gradients
from learner.megatron.training.expert_balance import ExpertBalance
from learner.megatron.training.expert_meter import ExpertMeter
from learner.megatron.training.gradient_meter import GradientMeter
from learner.megatron.training.gradient_projection import GradientProjection
from learner.megatron.training.pipeline import Pipeline
from learner.megatron.training.update_meter import Update, UpdateMeter, optimizer_parts
from learner.objectives.base import Objective, Responses

# The sums of every step, which come before the objective's metrics.
_STEP_SUMS = ("loss", "tokens_count", "entropy_sum", "entropy_count")


@dataclass(frozen=True)
class StepStats:
    """The result of a step; equal on every rank but for ``logp``.

    Attributes:
        loss: the step's loss, summed over micro-batches and data-parallel ranks.
        grad_norm: L2 norm of the whole model's gradient before clipping.
        metrics: sums over micro-batches and data-parallel ranks: the objective's metrics, entropy_sum (nats), entropy_count.
        skipped: why the weights were not changed, or None.
        update: how the weights moved; None if they did not, or if that is not measured.
        group_weights: each group's weight in the gradient, by its index in the step: the sum over its tokens of
            |d loss / d log p| / temperature, because the logits are divided by the temperature.
        logp: log-probabilities of the loss tokens before the update, [L] float32 for each of this data rank's micro-batches;
            empty but on the last stage.
        gradient_cosine: between this gradient, before any projection and clipping, and that of the last step that changed
            weights; None if there is none, and if it is not measured.
        expert_tokens: tokens that each expert was sent, by the number of its layer, from 0; empty without experts.
        replay: how many tokens went to the experts that engines chose; None where the model's routers choose.
    """

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    skipped: str | None
    update: Update | None = None
    group_weights: Sequence[float] = ()
    logp: Sequence[Tensor] = ()
    gradient_cosine: float | None = None
    expert_tokens: Mapping[int, Sequence[int]] = field(default_factory=dict)
    replay: ReplayCounts | None = None

    @property
    def finite(self) -> bool:
        """Whether the loss and the gradient were finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


Rate = float | Callable[[StepStats], float]


class Trainer:
    """Trains a policy with AdamW. Every method is collective: all ranks call it, with batches of the same shape.

    Args:
        policy: the model.
        config: optimizer settings.
        ranks: the layout.
        diagnostics: what is measured of each step; None: nothing.
        projects_above: cosine of consecutive gradients above which a gradient is projected (GradientProjection); None: never.
    """

    def __init__(
        self,
        policy: Policy,
        config: OptimizerConfig,
        ranks: Ranks,
        diagnostics: DiagnosticsConfig | None = None,
        projects_above: float | None = None,
    ) -> None:
        adam_step.apply()
        self._policy = policy
        self._ranks = ranks
        self._config = config
        self.optimizer = _optimizer(policy, config)
        self._meter: UpdateMeter | None = None
        if diagnostics is not None and diagnostics.update:
            self._meter = UpdateMeter(self.optimizer, diagnostics, ranks.device)
        self._gradient_meter: GradientMeter | None = None
        if projects_above is not None:
            self._gradient_meter = GradientProjection(self.optimizer, projects_above, ranks.device)
        elif diagnostics is not None and diagnostics.gradient_cosine:
            self._gradient_meter = GradientMeter(self.optimizer, diagnostics.update_stride, ranks.device)
        self._experts = ExpertMeter(policy, ranks)
        self._balance = ExpertBalance(policy)
        # Hooks that megatron documents for its users, not patches.
        settings = policy.transformer_config
        settings.finalize_model_grads_func = _finalize
        no_sync: list[Any] = [chunk.no_sync for chunk in policy.chunks]
        settings.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]  # type: ignore[assignment]  # as the schedules want
        self._pipeline = Pipeline(policy, ranks)
        self._before_update: list[Callable[[], None]] = []
        self._watch_optimizer()

    def use_configured_settings(self) -> dict[str, tuple[Any, Any]]:
        """Gives a loaded optimizer the configuration's settings in place of those that came with its checkpoint.

        Returns:
            What changed: setting -> (the checkpoint's value, the configuration's).
        """
        groups = [group for part in optimizer_parts(self.optimizer) for group in part.param_groups]
        return set_optimizer_settings(groups, self._config)

    def configure(self, config: OptimizerConfig, projects_above: float | None) -> None:
        """Takes another limit of the gradient's norm, weight decay and limit of projection between two steps.

        Args:
            config: optimizer settings; the learning rate is each step's own.
            projects_above: as in the constructor; it stays None, or a number.
        """
        self._config = config
        self.use_configured_settings()
        if projects_above is not None and self.projection is not None:
            self.projection.limit = projects_above

    @property
    def projection(self) -> GradientProjection | None:
        """What keeps the last gradient and projects the next one; None where gradients are not projected."""
        return self._gradient_meter if isinstance(self._gradient_meter, GradientProjection) else None

    def before_update(self, action: Callable[[], None]) -> None:
        """Calls ``action`` before every update of the weights, after forward and backward pass."""
        self._before_update.append(action)

    def prepare_update(self) -> None:
        """Calls what ``before_update`` was given; whoever changes weights, or an average of them, by himself calls it."""
        for action in self._before_update:
            action()

    def train_step(self, batch: Batch, objective: Objective, lr: Rate) -> StepStats:
        """Updates the weights with the gradient of the sum of the batch's losses over all data-parallel ranks.

        If the loss or the gradient is not finite on any rank, or no token carries loss, no rank changes its weights, and
        ``StepStats.skipped`` says why.

        Args:
            batch: this data-parallel rank's micro-batches.
            objective: the loss.
            lr: learning rate of this step, or a function that decides it from the step's results, once the gradient is
                known and before the weights move; every rank must come to the same rate.
        """
        stats = self.gradient(batch, objective)
        if stats.skipped is not None:
            return stats
        rate, norm = lr(stats) if callable(lr) else lr, stats.grad_norm
        if self._gradient_meter is not None:
            if self.projection is not None:
                self.prepare_update()  # a checkpoint may be copying the last gradient
            norm = self._gradient_meter.keep(stats.gradient_cosine, norm)
        update = self._update(rate, norm)
        if self._config.expert_bias_rate:
            self._balance.update(stats.expert_tokens, self._config.expert_bias_rate)
        return replace(stats, update=update)

    def gradient(self, batch: Batch, objective: Objective) -> StepStats:
        """Computes the loss and the gradient of a batch and changes no weights."""
        for chunk in self._policy.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        self._experts.start()
        replay = self._policy.replay
        if replay is not None:
            replay.start()
        outputs = self._run(batch, objective, train=True)
        self.optimizer.prepare_grads()
        gradients = [g for part in optimizer_parts(self.optimizer) for g in norm_gradients(part)]
        names = [*_STEP_SUMS, *_metric_names(objective)]
        count = len(names) + batch.groups
        summed = self._sum([output[:count] for output in outputs], count, gradients, measure=True)
        sums, weights = dict(zip(names, summed, strict=False)), summed[len(names) : count]
        square, *measured = summed[count:]
        counts = None
        if replay is not None:
            counts, measured = ReplayCounts(*measured[-len(replay) :]), measured[: -len(replay)]
        experts = self._experts.by_layer(measured[len(measured) - len(self._experts) :])
        loss, norm = sums.pop("loss"), math.sqrt(square)
        skipped = _reason_to_skip(loss, norm, sums.pop("tokens_count"))
        logp = [output[count:].float() for output in outputs]
        cosine = self._gradient_meter.cosine(*measured[:2]) if self._gradient_meter is not None else None
        return StepStats(loss, norm, sums, skipped, None, weights, logp, cosine, experts, counts)

    def evaluate(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Computes loss and metrics without training, summed over micro-batches and data-parallel ranks."""
        names = [*_STEP_SUMS, *_metric_names(objective)]
        count = len(names) + batch.groups
        summed = self._sum([output[:count] for output in self._run(batch, objective, train=False)], count, [])
        return {name: value for name, value in zip(names, summed, strict=False) if name != "tokens_count"}

    def _watch_optimizer(self) -> None:
        for part in optimizer_parts(self.optimizer):
            part.optimizer.register_step_pre_hook(lambda *_: self.prepare_update())

    def _run(self, batch: Batch, objective: Objective, train: bool) -> list[Tensor]:
        """Runs the batch; returns, on the last stage, each micro-batch's numbers to sum and its log-probabilities."""
        return self._pipeline.run(batch, partial(_loss, objective, batch.groups), train)

    def _sum(self, outputs: list[Tensor], count: int, gradients: list[Tensor], measure: bool = False) -> list[float]:
        """Sums all ranks' numbers in one all-reduce.

        Returns:
            ``count`` numbers of the last stage, the squared norm of the gradients, and with ``measure`` what the gradient
            meter adds up, if there is one, the tokens of each expert, if there are any, and what was replayed.
        """
        total = torch.zeros(count + 1, dtype=torch.float64, device=self._ranks.device)
        # Tensor- and context-parallel ranks of a stage have equal numbers: one of them counts.
        if outputs and self._ranks.tensor_rank == self._ranks.context_rank == 0:
            total[:-1] = torch.stack(outputs).sum(0)
        if gradients:
            total[-1] = torch.nn.utils.get_total_norm(gradients).double().square()
        if measure:
            gradient = [self._gradient_meter.sums()] if self._gradient_meter is not None else []
            replayed = [self._policy.replay.sums()] if self._policy.replay is not None else []
            total = torch.cat([total, *gradient, self._experts.sums(), *replayed])
        dist.all_reduce(total)
        return total.tolist()

    def _update(self, lr: float, norm: float) -> Update | None:
        if self._meter is not None:
            self._meter.before()
        total = torch.full((), norm, device=self._ranks.device)
        for part in optimizer_parts(self.optimizer):
            if norm > self._config.clip_grad:
                torch.nn.utils.clip_grads_with_norm_(part.get_parameters(), self._config.clip_grad, total)
            for group in part.param_groups:
                group["lr"] = lr
        self.optimizer.step_with_ready_grads()
        return self._meter.after() if self._meter is not None else None


def set_optimizer_settings(groups: Iterable[dict[str, Any]], config: OptimizerConfig) -> dict[str, tuple[Any, Any]]:
    """Sets weight decay, betas and eps of every parameter group; the learning rate is each step's own.

    Returns:
        What changed: setting -> (a group's value before, the configuration's).
    """
    wanted = {"weight_decay": config.weight_decay, "betas": tuple(config.betas), "eps": config.eps}
    changed: dict[str, tuple[Any, Any]] = {}
    for group in groups:
        for name, value in wanted.items():
            before = tuple(group[name]) if name == "betas" else group[name]
            if before != value:
                changed[name] = (before, value)
                group[name] = value
    return changed


def _loss(
    objective: Objective, groups: int, micro_batch: MicroBatch, logp: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor]:
    loss, metrics = objective(logp, Responses.of(micro_batch, entropy))
    count = loss.new_full((), len(logp))  # a kernel fills it: a copy from the host would be waited for
    values = [loss.detach(), count, entropy.detach().sum(), count, *metrics.values()]
    weights = torch.zeros(groups, dtype=torch.float64, device=logp.device)
    if loss.requires_grad and logp.requires_grad:
        (slope,) = torch.autograd.grad(loss, logp, retain_graph=True)
        weights.index_add_(0, micro_batch.group[micro_batch.loss_row], (slope.abs() / micro_batch.temperature).double())
    elif not loss.requires_grad:
        loss = loss + 0.0 * logp.sum()  # the previous stage waits for a gradient, even if it is zero
    return loss, torch.cat([torch.stack([value.double() for value in values]), weights, logp.detach().double()])


def _reason_to_skip(loss: float, norm: float, tokens: float) -> str | None:
    if not math.isfinite(loss):
        return f"non-finite loss ({loss})"
    if not math.isfinite(norm):
        return f"non-finite gradient (norm {norm})"
    return None if tokens else "no token carries loss"


def _metric_names(objective: Objective) -> list[str]:
    """Names of the objective's metrics. Only the last stage computes them, but every rank must know their order."""
    logp, responses = Responses.probe()
    if objective.needs_survey:
        objective = copy.deepcopy(objective)  # the survey of the step in hand must stay
        objective.survey(torch.zeros(1), responses.advantage)
    _, metrics = objective(logp, responses)
    return list(metrics)


def _finalize(model: list[Any], num_tokens: Tensor | None = None, **options: Any) -> None:
    """Reduces the gradients over the ranks, without the token count, which megatron would divide the gradient by."""
    finalize_model_grads(model, None, **options)


def _optimizer(policy: Policy, config: OptimizerConfig) -> MegatronOptimizer:
    settings = MegatronOptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        adam_eps=config.eps,
        weight_decay=config.weight_decay,
        clip_grad=config.clip_grad,
        use_distributed_optimizer=True,
        bf16=policy.dtype == torch.bfloat16,
        params_dtype=policy.dtype,
    )
    optimizer = get_megatron_optimizer(settings, list(policy.chunks), use_gloo_process_groups=False)
    if policy.kernels.fused:
        use_fused_adam(part.optimizer for part in optimizer_parts(optimizer))
    return optimizer


def use_fused_adam(optimizers: Iterable[Any]) -> None:
    """Makes torch's Adam take its step in one kernel, without a copy of the second moments; other Adams are fused already.

    Megatron builds the optimizer and passes no such option on. Call it before the first step and before anything is loaded.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.Adam):
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, False

"""A batch's way through the pipeline's stages, forward or forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.megatron.attention import PackedRow
from learner.megatron.logprobs import vocab_parallel_logprobs
from learner.megatron.model import PackedModel, Policy
from learner.megatron.parallel import Ranks

# Log-probabilities and entropies [L] of a micro-batch's loss tokens -> its loss, and what to bring back of it.
Head = Callable[[MicroBatch, Tensor, Tensor], tuple[Tensor, Tensor]]


class Pipeline:
    """Runs batches through a policy. Collective among the ranks that share a data rank."""

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self._policy = policy
        self._ranks = ranks
        self._forward_backward = get_forward_backward_func()

    def run(self, batch: Batch, head: Head, train: bool) -> list[Tensor]:
        """What ``head`` brought back of each micro-batch, on every rank of the last stage; an empty list elsewhere.

        Args:
            train: accumulate the gradient of the sum of the losses.

        Raises:
            ValueError: sequence parallelism cannot cut the micro-batches, or the interleaved schedule needs more of them.
        """
        width = batch.tokens_per_micro_batch
        if self._ranks.sequence and width % self._ranks.tensor_size:
            raise ValueError(
                f"tokens_per_micro_batch = {width} is not divisible by parallel.tensor = {self._ranks.tensor_size}, as "
                "sequence parallelism needs: pack to a multiple of it"
            )
        chunks, count = self._policy.chunks, len(batch.micro_batches)
        if len(chunks) > 1:
            self._policy.transformer_config.microbatch_group_size_per_vp_stage = _turn(count, self._ranks.pipeline_size)
        with torch.set_grad_enabled(train):
            return self._forward_backward(
                forward_step_func=partial(self._forward, head),
                data_iterator=list(itertools.tee(self._feed(batch), len(chunks))),
                model=list(chunks),
                num_microbatches=count,
                seq_length=width,
                micro_batch_size=1,
                forward_only=not train,
            )

    def _feed(self, batch: Batch) -> Iterator[tuple[MicroBatch, PackedRow]]:
        device = self._ranks.device
        for micro_batch in batch.micro_batches:
            row = PackedRow.of(micro_batch, self._policy.inverse_frequencies, self._policy.dtype, device)
            yield micro_batch.to(device), row

    def _forward(self, head: Head, feed: Iterator[tuple[MicroBatch, PackedRow]], module: Any) -> Any:
        micro_batch, row = next(feed)
        output = module(micro_batch.tokens, micro_batch.positions, row, micro_batch.loss_index)
        return output, partial(self._last, head, micro_batch, module.module)

    def _last(
        self, head: Head, micro_batch: MicroBatch, model: PackedModel, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logp, entropy = vocab_parallel_logprobs(
            hidden, model.head, micro_batch.loss_target, micro_batch.temperature, self._ranks.tensor_group
        )
        loss, result = head(micro_batch, logp, entropy)
        return loss, torch.tensor(1, dtype=torch.int), result


def _turn(micro_batches: int, stages: int) -> int:
    """Micro-batches that go through one piece of the model before the next piece has its turn: as few as the stages allow.

    The schedule wants a remainder of none or of at least one per stage.

    Raises:
        ValueError: fewer micro-batches than stages.
    """
    for turn in range(stages, micro_batches + 1):
        if micro_batches % turn == 0 or micro_batches % turn >= stages:
            return turn
    raise ValueError(
        f"{micro_batches} micro-batches for parallel.pipeline = {stages} stages: the interleaved schedule "
        "(parallel.virtual_pipeline) needs one for every stage: pack with min_micro_batches"
    )

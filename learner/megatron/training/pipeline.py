"""Runs a batch through the pipeline's stages, forward only or forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.megatron.model.context_parallel import ContextGroup, gather_loss_tokens
from learner.megatron.model.logprobs import vocab_parallel_logprobs
from learner.megatron.model.packed_model import PackedModel, Policy
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.parallel import Ranks
from learner.megatron.patches import microbatch_groups
from learner.megatron.patches.head_gather import finish_gather
from learner.megatron.patches.p2p_communicator import PipelineCommunicator

# From a micro-batch and the log-probabilities and entropies [L] of its loss tokens to its loss (scalar) and a result tensor.
Head = Callable[[MicroBatch, Tensor, Tensor], tuple[Tensor, Tensor]]


class Pipeline:
    """Runs batches through a policy. Collective among the ranks of one data rank."""

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self._policy = policy
        self._ranks = ranks
        self._context = ContextGroup.of(ranks)
        self._forward_backward = get_forward_backward_func()
        self._communicator: PipelineCommunicator | None = None
        if ranks.pipeline_size > 1:
            self._communicator = PipelineCommunicator(policy.transformer_config)

    def run(self, batch: Batch, head: Head, train: bool) -> list[Tensor]:
        """Runs every micro-batch of ``batch``.

        Args:
            batch: packed micro-batches.
            head: computes a micro-batch's loss and result on the last stage.
            train: whether to accumulate the gradient of the sum of the losses.

        Returns:
            The result of ``head`` for each micro-batch, on every rank of the last stage; an empty list elsewhere.

        Raises:
            ValueError: the ranks cannot split the micro-batches, or the interleaved schedule needs more of them.
        """
        chunks, lengths = self._policy.chunks, self._lengths(batch)
        group_size = len(lengths)
        if len(chunks) > 1:
            group_size = microbatch_group_size(len(lengths), self._ranks.pipeline_size)
            microbatch_groups.set_group_size(self._policy.transformer_config, group_size)
        groups: dict[str, Any] = {}
        if self._communicator is not None:
            self._communicator.expect(lengths, len(chunks), group_size)
            groups = {"p2p_communicator": self._communicator, "pg_collection": _process_groups()}
        with torch.set_grad_enabled(train):
            return self._forward_backward(
                forward_step_func=partial(self._forward, head),
                data_iterator=list(itertools.tee(self._feed(batch), len(chunks))),
                model=list(chunks),
                num_microbatches=len(lengths),
                seq_length=max(lengths),  # not read: each micro-batch has its own length
                micro_batch_size=1,
                forward_only=not train,
                **groups,
            )

    def _lengths(self, batch: Batch) -> list[int]:
        """Number of tokens of each micro-batch whose hidden states a rank has between layers.

        Raises:
            ValueError: a micro-batch is not divisible over the ranks.
        """
        divisor = self._context.size * (self._ranks.tensor_size if self._ranks.sequence else 1)
        widths = [micro_batch.tokens.shape[1] for micro_batch in batch.micro_batches]
        for width in widths:
            if width % divisor:
                raise ValueError(
                    f"a micro-batch of {width} tokens is not divisible by {divisor} (parallel.context, times parallel.tensor "
                    "under sequence parallelism): pack to a multiple of it"
                )
        return [width // divisor for width in widths]

    def _feed(self, batch: Batch) -> Iterator[tuple[MicroBatch, PackedRow]]:
        # A micro-batch's row is planned when its forward pass begins. Nothing in a step waits for a CUDA device, which has
        # then still the passes before it to compute.
        device, policy = self._ranks.device, self._policy
        for micro_batch in batch.micro_batches:
            row = PackedRow.of(micro_batch, policy.rotary, policy.dtype, device, self._context, policy.kernels)
            yield replace(micro_batch, routed=None).to(device), row  # the row has this rank's part of it

    def _forward(self, head: Head, feed: Iterator[tuple[MicroBatch, PackedRow]], module: Any) -> Any:
        micro_batch, row = next(feed)
        output = module(micro_batch.tokens[:, row.own], micro_batch.positions[:, row.own], row)
        return output, partial(self._run_head, head, micro_batch, row, module)

    def _run_head(
        self, head: Head, micro_batch: MicroBatch, row: PackedRow, chunk: DistributedDataParallel, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        own, weight = row.loss_order.own, cast(PackedModel, chunk.module).head
        finish_gather(chunk, weight)
        logp, entropy = vocab_parallel_logprobs(
            hidden,
            weight,
            micro_batch.loss_target[own],
            micro_batch.temperature[own],
            self._ranks.tensor_group,
            self._policy.vocab_size,
        )
        logp, entropy = gather_loss_tokens(logp, entropy, row.loss_order, self._context)
        loss, result = head(micro_batch, logp, entropy)
        return loss, torch.tensor(1, dtype=torch.int), result


def _process_groups() -> ProcessGroupCollection:
    """The groups that the schedules would look up themselves: they accept either none of them or all."""
    return ProcessGroupCollection.use_mpu_process_groups(["tp", "pp", "cp", "embd", "pos_embd", "dp_cp"])


def microbatch_group_size(micro_batches: int, stages: int) -> int:
    """Micro-batches that go through a model chunk before the next chunk's turn: as few as the interleaved schedule allows.

    The schedule needs at least one micro-batch per stage in each group, in the last, smaller one too.

    Raises:
        ValueError: there are fewer micro-batches than stages.
    """
    for size in range(stages, micro_batches + 1):
        if micro_batches % size == 0 or micro_batches % size >= stages:
            return size
    raise ValueError(
        f"{micro_batches} micro-batches for parallel.pipeline = {stages} stages: the interleaved schedule "
        "(parallel.virtual_pipeline) needs one for every stage: pack with min_micro_batches"
    )

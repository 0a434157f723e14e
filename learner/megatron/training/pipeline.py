"""A batch's way through the pipeline's stages, forward or forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.megatron.model.context_parallel import Context, gather_loss_tokens
from learner.megatron.model.logprobs import vocab_parallel_logprobs
from learner.megatron.model.packed_model import PackedModel, Policy
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.parallel import Ranks
from learner.megatron.training.p2p import PipelineCommunicator

# Log-probabilities and entropies [L] of a micro-batch's loss tokens -> its loss, and what to bring back of it.
Head = Callable[[MicroBatch, Tensor, Tensor], tuple[Tensor, Tensor]]


class Pipeline:
    """Runs batches through a policy. Collective among the ranks that share a data rank."""

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self._policy = policy
        self._ranks = ranks
        self._context = Context.of(ranks)
        self._forward_backward = get_forward_backward_func()
        self._exchange: PipelineCommunicator | None = None
        if ranks.pipeline_size > 1:
            self._exchange = PipelineCommunicator(policy.transformer_config)

    def run(self, batch: Batch, head: Head, train: bool) -> list[Tensor]:
        """What ``head`` brought back of each micro-batch, on every rank of the last stage; an empty list elsewhere.

        Args:
            train: accumulate the gradient of the sum of the losses.

        Raises:
            ValueError: the ranks cannot cut the micro-batches, or the interleaved schedule needs more of them.
        """
        chunks, lengths = self._policy.chunks, self._lengths(batch)
        turn = _turn(len(lengths), self._ranks.pipeline_size) if len(chunks) > 1 else len(lengths)
        if len(chunks) > 1:
            self._policy.transformer_config.microbatch_group_size_per_vp_stage = turn
        groups: dict[str, Any] = {}
        if self._exchange is not None:
            self._exchange.expect(lengths, len(chunks), turn)
            groups = {"p2p_communicator": self._exchange, "pg_collection": _groups()}
        with torch.set_grad_enabled(train):
            return self._forward_backward(
                forward_step_func=partial(self._forward, head),
                data_iterator=list(itertools.tee(self._feed(batch), len(chunks))),
                model=list(chunks),
                num_microbatches=len(lengths),
                seq_length=max(lengths),  # not read: each has its own
                micro_batch_size=1,
                forward_only=not train,
                **groups,
            )

    def _lengths(self, batch: Batch) -> list[int]:
        """Tokens of each micro-batch whose hidden states a rank has between layers."""
        cut = self._context.size * (self._ranks.tensor_size if self._ranks.sequence else 1)
        widths = [micro_batch.tokens.shape[1] for micro_batch in batch.micro_batches]
        for width in widths:
            if width % cut:
                raise ValueError(
                    f"a micro-batch of {width} tokens is not divisible by {cut} (parallel.context, times parallel.tensor "
                    "under sequence parallelism): pack to a multiple of it"
                )
        return [width // cut for width in widths]

    def _feed(self, batch: Batch) -> Iterator[tuple[MicroBatch, PackedRow]]:
        device = self._ranks.device
        for micro_batch in batch.micro_batches:
            row = PackedRow.of(micro_batch, self._policy.inverse_frequencies, self._policy.dtype, device, self._context)
            yield micro_batch.to(device), row

    def _forward(self, head: Head, feed: Iterator[tuple[MicroBatch, PackedRow]], module: Any) -> Any:
        micro_batch, row = next(feed)
        output = module(micro_batch.tokens[:, row.own], micro_batch.positions[:, row.own], row)
        return output, partial(self._last, head, micro_batch, row, module.module)

    def _last(
        self, head: Head, micro_batch: MicroBatch, row: PackedRow, model: PackedModel, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = row.own_loss
        logp, entropy = vocab_parallel_logprobs(
            hidden, model.head, micro_batch.loss_target[own], micro_batch.temperature[own], self._ranks.tensor_group
        )
        logp, entropy = gather_loss_tokens(logp, entropy, row.loss_owner, self._context)
        loss, result = head(micro_batch, logp, entropy)
        return loss, torch.tensor(1, dtype=torch.int), result


def _groups() -> ProcessGroupCollection:
    """The schedules want either none or all of those that they would look up themselves."""
    return ProcessGroupCollection.use_mpu_process_groups(["tp", "pp", "cp", "embd", "pos_embd", "dp_cp"])


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

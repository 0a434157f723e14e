"""Log-probabilities of a batch's tokens under other weights than the current ones, through the same pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.megatron.model.convert import WeightSource, local_weights
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.patches import weight_swap
from learner.megatron.training.pipeline import Pipeline
from learner.megatron.training.weight_average import WeightAverage


class Scorer:
    """Runs the model with other weights. Every rank handles only its own shard of them.

    Args:
        policy: this rank's shard of the model.
        ranks: this process's indices and groups.
        dtype: data type of published weights, "float32" or "bfloat16": fleets sample from weights that are rounded to it.
        average: what is published, where weights are averaged.
    """

    def __init__(self, policy: Policy, ranks: Ranks, dtype: str, average: WeightAverage | None = None) -> None:
        self._policy = policy
        self._average = average
        self._ranks = ranks
        self._pipeline = Pipeline(policy, ranks)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._parameters = [parameter for model in policy.models for parameter in model.parameters()]

    @property
    def version_bytes(self) -> int:
        """Size of what ``snapshot`` and ``read`` return."""
        return sum(parameter.numel() for parameter in self._parameters) * self._dtype.itemsize

    def prepare(self) -> None:
        """Makes the current weights complete on every rank. Collective; call it after an update, before ``score``."""
        self._policy.gather()

    def snapshot(self) -> list[Tensor]:
        """Copies this rank's shard of what is published now to host memory, rounded as it is there. Collective."""
        self.prepare()
        averages = self._average.weights(self._dtype) if self._average is not None else {}
        published = [averages.get(parameter, parameter).detach() for parameter in self._parameters]
        return [tensor.to("cpu", self._dtype, copy=True) for tensor in published]

    def read(self, source: WeightSource) -> list[Tensor]:
        """Reads this rank's shard of other weights, in the order and dtype of ``snapshot``. Raises what ``source`` raises."""
        weights = local_weights(self._policy.models, self._policy.architecture, source, self._ranks)
        return [own.to(self._dtype, copy=True) for _, own in weights]  # a view would keep the unsharded tensor alive

    def score(self, batch: Batch, weights: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Computes the log-probabilities of a batch's loss tokens at their temperatures.

        Collective among the ranks of one data rank; data ranks may call it with different batches, or not at all. Under
        expert parallelism it is collective among all ranks of a stage, which must have equally many micro-batches and weights
        of the same version.

        Args:
            batch: packed micro-batches.
            weights: this rank's shard, as ``snapshot`` and ``read`` return it; None for the current weights.

        Returns:
            On every rank of the last stage, [L] float32 for each micro-batch; an empty list elsewhere.
        """
        with contextlib.nullcontext() if weights is None else weight_swap.swapped(self._parameters, weights):
            return self._pipeline.run(batch, _return_logp, train=False)


def _return_logp(micro_batch: MicroBatch, logp: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
    return logp.new_zeros(()), logp

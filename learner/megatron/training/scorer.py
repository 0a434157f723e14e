"""Log-probabilities of a batch's tokens under weights that are not the current ones, through the same pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.megatron.model.convert import WeightSource, local_weights
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.training.pipeline import Pipeline


class Scorer:
    """Lends the model's layers other weights. Every rank handles its own part of them only.

    Args:
        dtype: of published weights, "float32" or "bfloat16": the fleets sampled from the rounded ones.
    """

    def __init__(self, policy: Policy, ranks: Ranks, dtype: str) -> None:
        self._policy = policy
        self._ranks = ranks
        self._pipeline = Pipeline(policy, ranks)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._parameters = [parameter for model in policy.models for parameter in model.parameters()]

    def snapshot(self) -> list[Tensor]:
        """This rank's part of the current weights as they are published now: a copy in host memory, rounded."""
        return [parameter.detach().to("cpu", self._dtype, copy=True) for parameter in self._parameters]

    def read(self, source: WeightSource) -> list[Tensor]:
        """This rank's part of other weights, in the order and dtype of ``snapshot``. Raises what ``source`` raises."""
        parts = local_weights(self._policy.models, self._policy.architecture, source, self._ranks)
        return [part.to(self._dtype, copy=True) for _, part in parts]  # a part keeps no whole tensor alive

    def score(self, batch: Batch, weights: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Log-probabilities of each micro-batch's loss tokens, [L] float32, at their temperatures.

        Collective among the ranks of one data rank; data ranks may call it with different batches, or not at all. Where
        experts are shared out (expert > 1) it is collective among all ranks of a stage: as many micro-batches on each, and
        weights of the same origin.

        Args:
            weights: as ``snapshot`` and ``read`` return them; None: the current ones.

        Returns:
            On every rank of the last stage; an empty list elsewhere.
        """
        with contextlib.nullcontext() if weights is None else self._lent(weights):
            return self._pipeline.run(batch, _keep, train=False)

    @contextlib.contextmanager
    def _lent(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """The parameters point elsewhere for a while: nothing is copied over, and what they held is not touched."""
        own = [parameter.data for parameter in self._parameters]
        try:
            for parameter, tensor in zip(self._parameters, weights, strict=True):
                parameter.data = tensor.to(parameter.device, parameter.dtype, non_blocking=True)
            yield
        finally:
            for parameter, data in zip(self._parameters, own, strict=True):
                parameter.data = data


def _keep(micro_batch: MicroBatch, logp: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
    return logp.new_zeros(()), logp

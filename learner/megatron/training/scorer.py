"""Log-probabilities of a batch's tokens under other weights than the current ones, through the same pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from learner.batch.types import Batch, MicroBatch
from learner.megatron.model.convert import WeightSource, local_weights
from learner.megatron.model.correction_bias import published_dtypes
from learner.megatron.model.lora import adapters, matrices, merged
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.patches import weight_swap
from learner.megatron.training.pipeline import Pipeline
from learner.megatron.training.weight_average import WeightAverage


class Scorer:
    """Runs the model with other weights. Every rank handles only its own shard of them.

    Where adapters are trained, a copy of a version is one of its adapters, in the order in which versions are exported. What
    is read of a published version is the model with its adapters added, and has zero in place of them.

    Args:
        policy: this rank's shard of the model.
        ranks: this process's indices and groups.
        dtype: data type of published weights, "float32" or "bfloat16": fleets sample from weights that are rounded to it.
        average: what is published, where weights are averaged.
        form: what is published of adapters. "merged": copies are added to the model's weights and rounded, as published
            ones are, whenever tokens are scored with them; "adapter": engines compute with the adapters, and so does this.
    """

    def __init__(
        self,
        policy: Policy,
        ranks: Ranks,
        dtype: str,
        average: WeightAverage | None = None,
        form: Literal["merged", "adapter"] = "merged",
    ) -> None:
        self._policy = policy
        self._average = average
        self._ranks = ranks
        self._pipeline = Pipeline(policy, ranks)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._adapters = [matrix.parameter for matrix in matrices(policy.models)]
        trained = set(self._adapters)
        everything = [parameter for model in policy.models for parameter in model.parameters()]
        self._parameters = [parameter for parameter in everything if parameter not in trained]
        self._dtypes = published_dtypes(self._parameters, self._dtype)
        self._merges = bool(self._adapters) and form == "merged"
        self._copied = self._adapters or self._parameters
        self._copied_dtype = torch.float32 if self._merges else self._dtype

    @property
    def version_bytes(self) -> int:
        """Size of what ``snapshot`` returns; what ``read`` returns is larger where adapters are trained."""
        sizes = zip(self._copied, published_dtypes(self._copied, self._copied_dtype), strict=True)
        return sum(parameter.numel() * dtype.itemsize for parameter, dtype in sizes)

    def prepare(self) -> None:
        """Makes the current weights complete on every rank. Collective; call it after an update, before ``score``."""
        self._policy.gather()

    def snapshot(self) -> list[Tensor]:
        """Copies this rank's shard of what is published now to host memory, rounded as it is there. Collective."""
        self.prepare()
        averages = self._average.weights(self._copied_dtype) if self._average is not None else {}
        published = [averages.get(parameter, parameter).detach() for parameter in self._copied]
        dtypes = published_dtypes(self._copied, self._copied_dtype)
        return [tensor.to("cpu", dtype, copy=True) for tensor, dtype in zip(published, dtypes, strict=True)]

    def read(self, source: WeightSource) -> list[Tensor]:
        """Reads this rank's shard of other weights, rounded as they are published. Raises what ``source`` raises."""
        weights = local_weights(self._policy.models, self._policy.architecture, source, self._ranks)
        # A view would keep the unsharded tensor alive.
        found = [own.to(dtype, copy=True) for (_, own), dtype in zip(weights, self._dtypes, strict=True)]
        return found + [torch.zeros_like(adapter, device="cpu") for adapter in self._adapters]

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
        with contextlib.nullcontext() if weights is None else self._swapped(weights):
            return self._pipeline.run(batch, _return_logp, train=False)

    @contextlib.contextmanager
    def _swapped(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Points the parameters at a copy, or at what was read."""
        everything = [*self._parameters, *self._adapters]
        if self._merges and len(weights) == len(self._adapters):
            with weight_swap.swapped(self._adapters, weights):
                weights = self._merged()
        chosen = everything if len(weights) == len(everything) else self._adapters
        with weight_swap.swapped(chosen, weights):
            yield

    def _merged(self) -> list[Tensor]:
        """The weights with the current adapters added to them, rounded as they are published; then zero for the adapters."""
        beside = dict(adapters(self._policy.models))
        found = [
            merged(parameter.detach(), beside[parameter].delta(), dtype) if parameter in beside else parameter.to(dtype)
            for parameter, dtype in zip(self._parameters, self._dtypes, strict=True)
        ]
        return [tensor.detach() for tensor in found] + [torch.zeros_like(adapter) for adapter in self._adapters]


def _return_logp(micro_batch: MicroBatch, logp: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
    return logp.new_zeros(()), logp

"""What an objective is: log-probabilities of sampled tokens in, a loss and additive metrics out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Responses:
    """The responses of a micro-batch. Responses are never split, so every per-response sum is complete here."""

    row: Tensor  # [L] int64: response of each loss token
    advantage: Tensor  # [R] float32
    weight: Tensor  # [R] float32: factor of the response's term in the loss

    def total(self, values: Tensor) -> Tensor:
        """Sums per-token ``values`` [L] by response: [R]."""
        return torch.zeros_like(self.weight, dtype=values.dtype).index_add(0, self.row, values)

    def lengths(self) -> Tensor:
        """Loss tokens of each response: [R] float32."""
        return self.total(torch.ones_like(self.row, dtype=torch.float32))


class Objective(Protocol):
    """A function of one micro-batch.

    The loss is a plain sum over its responses, each already weighted (``Responses.weight``), so that the sum over
    micro-batches and data-parallel ranks is the loss of the step, however the batch was cut. Metrics are sums as well,
    named ``<thing>_sum`` and ``<thing>_count``.
    """

    def __call__(self, logp: Tensor, responses: Responses) -> tuple[Tensor, dict[str, Tensor]]:
        """``logp`` [L] float32: log-probability of each sampled token under the current policy."""
        ...

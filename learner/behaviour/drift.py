"""Measures how far the current policy has moved from those that generated the tokens, by the tokens' staleness. Pure.

pi = current probability of a sampled token, mu = the probability it was sampled with, w = pi / mu.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BEYOND = 0.15  # DPPO's bound on |pi - mu| (learner.objectives.divergence)
_SUMS = 5
_LIMIT = 20.0  # |log w| is clamped to it, as in learner.objectives.ratio


def bucket_count(max_staleness: int) -> int:
    """Number of buckets for ages up to ``max_staleness`` optimizer steps: 0, 1, 2-3, 4-7, 8-15, ..."""
    return max_staleness.bit_length() + 1


def drift_sums(log_pi: Tensor, log_mu: Tensor, age: Tensor, buckets: int) -> Tensor:
    """Sums that ``drift_row`` makes its numbers from, additive over tokens and ranks.

    Args:
        log_pi: [n] float, log-probability of each token under the current policy.
        log_mu: [n] float, log-probability under the version that generated it.
        age: [n] int64, staleness in optimizer steps; an age beyond the last bucket counts in the last one.
        buckets: number of buckets, from ``bucket_count``.

    Returns:
        [buckets, 5] float64: number of tokens, and sums of log w, w, w^2 and [|pi - mu| > 0.15].
    """
    log_ratio = (log_pi.double() - log_mu.double()).clamp(-_LIMIT, _LIMIT)
    weight = log_ratio.exp()
    beyond = (log_pi.double().exp() - log_mu.double().exp()).abs() > _BEYOND
    values = torch.stack([torch.ones_like(weight), log_ratio, weight, weight.square(), beyond.double()], 1)
    bucket = torch.where(age > 0, age.double().log2().floor().long() + 1, 0).clamp(max=buckets - 1)
    return values.new_zeros(buckets, _SUMS).index_add(0, bucket, values)


def drift_row(sums: Tensor) -> dict[str, Any]:
    """Turns the sums of ``drift_sums`` into the numbers of a step's row.

    Returns:
        true_drift: E[log(pi / mu)] over the sampled tokens, nats/token: minus the KL divergence of pi from mu.
        effective_share: effective sample size (sum w)^2 / sum w^2 as a share of the tokens, in (0, 1].
        beyond_bound: share of tokens with |pi - mu| > 0.15.
        drift_tokens: number of tokens measured; if it is 0, the three numbers above are None.
        drift_staleness: these four numbers for each bucket of ages that has tokens, by the bucket's range of ages.
    """
    total = _figures(sums.sum(0))
    names = ("true_drift", "effective_share", "beyond_bound", "drift_tokens")
    by_age = {_label(bucket): _figures(row) for bucket, row in enumerate(sums) if row[0] > 0}
    return dict(zip(names, total, strict=True)) | {"drift_staleness": by_age}


def _figures(row: Tensor) -> list[float | None]:
    count, log_ratio, weight, square, beyond = row.tolist()
    if not count:
        return [None, None, None, 0]
    return [log_ratio / count, weight**2 / (count * square), beyond / count, int(count)]


def _label(bucket: int) -> str:
    first = 1 << (bucket - 1) if bucket else 0
    return str(first) if bucket < 2 else f"{first}-{2 * first - 1}"

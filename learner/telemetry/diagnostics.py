"""Diagnostics derived from a step's sums, groups and updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from learner.megatron.model.routing_replay import ReplayCounts
from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of


def ratios(sums: Mapping[str, float]) -> dict[str, float | None]:
    """Turns an objective's sums into one number per quantity: <quantity>_sum / <quantity>_count.

    Args:
        sums: values under the names <quantity>_sum and <quantity>_count.

    Returns:
        Quantity -> mean, or its bare sum if ``sums`` has no count of it; None if the count is 0 or the result not finite.
    """
    found: dict[str, float | None] = {}
    for name, value in sums.items():
        quantity, _, kind = name.rpartition("_")
        if kind == "sum":
            count = sums.get(f"{quantity}_count")
            found[quantity] = value if count is None else value / count if count else None
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}


def replayed(counts: ReplayCounts | None) -> dict[str, float | None]:
    """Turns what was replayed in a step into the shares of its row.

    Returns:
        routing_replayed: tokens that went to the experts that engines chose, as a share of all, over all mixture layers.
        routing_disagreement: choices of engines that the router would not have made, as a share of those replayed.
        None where there are no tokens or choices, or nothing is replayed.
    """
    tokens, choices = (counts.tokens, counts.choices) if counts is not None else (0.0, 0.0)
    return {
        "routing_replayed": counts.replayed / tokens if counts is not None and tokens else None,
        "routing_disagreement": counts.differing / choices if counts is not None and choices else None,
    }


def ballistic(cosine: float | None, beta: float) -> float | None:
    """Computes the lag-one correlation of gradients that explains the cosine of Adam's consecutive updates.

    The staleness paper (arXiv 2607.01083) calls updates ballistic if their cosine stays above about 0.5 and diffusive if
    it is near 0. Adam's momentum alone makes that cosine ``beta``: consecutive exponential means of white noise correlate
    that much. Gradients whose correlation falls as phi^k give a cosine of (phi + beta) / (1 + phi beta); solved for phi,
    that is 0 if the cosine comes from momentum only and 1 on a straight path.

    Args:
        cosine: between consecutive updates; None if it is not known.
        beta: the decay of Adam's first moment, usually 0.9.

    Returns:
        phi, between -1 and 1; None if the cosine is not known.
    """
    if cosine is None:
        return None
    return (cosine - beta) / max(1e-9, 1 - cosine * beta)


def reward_by_staleness(groups: Sequence[pb.Group], staleness: Mapping[int, int]) -> dict[int, tuple[float, int]]:
    """Groups the scored responses by staleness; a response is as stale as its oldest token.

    Args:
        groups: groups of one step.
        staleness: optimizer steps by which each version in the groups' spans is older than the step.

    Returns:
        Staleness in optimizer steps, ascending -> (mean reward, number of responses).
    """
    rewards: dict[int, list[float]] = {}
    for group in groups:
        for response in group.responses:
            if not response.unscored:
                age = max(staleness[span.version] for span in spans_of(response))
                rewards.setdefault(age, []).append(response.reward)
    return {age: (sum(values) / len(values), len(values)) for age, values in sorted(rewards.items())}

"""What a step's numbers say about the run's health."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from leeway.v1 import rollout_pb2 as pb


def ratios(sums: Mapping[str, float]) -> dict[str, float | None]:
    """An objective's sums as one number each: ``<thing>_sum`` over ``<thing>_count``, or the bare sum where none is counted.

    None where there was nothing to count, or it is not finite.
    """
    found: dict[str, float | None] = {}
    for name, value in sums.items():
        thing, _, kind = name.rpartition("_")
        if kind == "sum":
            count = sums.get(f"{thing}_count")
            found[thing] = value if count is None else value / count if count else None
    return {thing: value if value is None or math.isfinite(value) else None for thing, value in found.items()}


def ballistic(cosine: float | None, beta: float) -> float | None:
    """The lag-one correlation of gradients that would make Adam's consecutive updates agree so much.

    The staleness paper (arXiv 2607.01083) calls updates ballistic when their cosine stays above about 0.5 and diffusive near
    0. Adam's momentum alone makes it ``beta`` (its first, usually 0.9): such are exponential means of white noise. Gradients
    whose correlation falls as phi^k give (phi + beta) / (1 + phi beta); solved for phi, that is 0 where only momentum speaks
    and 1 on a straight path. Between -1 and 1; None where the cosine is not known.
    """
    if cosine is None:
        return None
    return (cosine - beta) / max(1e-9, 1 - cosine * beta)


def reward_by_staleness(groups: Sequence[pb.Group], staleness: Mapping[int, int]) -> dict[int, tuple[float, int]]:
    """Mean reward and number of the responses of each age, ascending; a response is as old as its oldest token.

    Args:
        staleness: optimizer steps of each version in the groups' spans.
    """
    rewards: dict[int, list[float]] = {}
    for group in groups:
        for response in group.responses:
            age = max(staleness[span.version] for span in response.spans)
            rewards.setdefault(age, []).append(response.reward)
    return {age: (sum(values) / len(values), len(values)) for age, values in sorted(rewards.items())}

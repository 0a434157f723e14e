"""What a valid group amounts to: its size, rewards and versions, for the queue and the ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from learner.gateway.violation import Violation
from learner.queue import Kind


class Measures(NamedTuple):
    """Size, mean reward and versions of a valid group."""

    tokens: int  # context and response tokens over all responses
    generated: int  # response tokens over all responses
    responses: int
    reward: float | None  # mean over the scored responses; None if there are none
    versions: Collection[int] = ()  # of its spans, each once
    kind: Kind = ""
    unscored: tuple[tuple[str, int], ...] = ()  # reason -> responses that nobody judged because of it
    routing: int = 0  # bytes of the records of experts


def measured(
    sizes: tuple[int, int], rewards: Sequence[float], versions: set[int], unscored: Sequence[str] = ()
) -> Measures | Violation:
    """Measures a group that breaks no rule, but perhaps the one on its mean reward.

    Args:
        sizes: tokens and generated tokens, as in Measures.
        rewards: of the scored responses, each finite.
        versions: of all spans.
        unscored: the reason of each response that nobody judged.

    Returns:
        The measures; the violation of a group whose mean reward is not finite.
    """
    mean = sum(rewards) / len(rewards) if rewards else None
    if mean is not None and not math.isfinite(mean):
        return Violation.of("reward_mean_not_finite", "responses", mean, "a finite mean of the rewards")
    kind: Kind = "unscored" if len(rewards) < 2 else "without_contrast" if len(set(rewards)) < 2 else ""
    reasons = tuple(Counter(unscored).items()) if unscored else ()
    return Measures(*sizes, len(rewards) + len(unscored), mean, versions, kind, reasons)

"""Model of one fleet's queue in plain Python, to compare the real one with."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from leeway.v1 import rollout_pb2 as pb


class Model:
    """Expected state of one fleet's queue; ``finished`` maps a group id to its outcome."""

    def __init__(self) -> None:
        self.queued: deque[str] = deque()
        self.pending: list[str] = []  # delivered and not finished, in order
        self.finished: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.without_reward: Counter[str] = Counter()  # outcome -> groups without a scored response
        self.reasons: Counter[str] = Counter()  # of unscored responses of accepted groups

    def ledger(self, fleet: str, sizes: Mapping[str, int]) -> pb.Ledger:
        """Returns the ledger that the real one must equal; ``sizes`` are the payload bytes of each group."""
        counts: dict[str, Any] = dict(self.counts)
        present = [*self.queued, *self.pending]
        return pb.Ledger(
            fleet=fleet,
            queued=len(self.queued),
            in_flight=len(self.pending),
            bytes=sum(sizes[name] for name in [*present, *self.finished]),
            queued_bytes=sum(sizes[name] for name in present),
            unscored_responses_by_reason=self.reasons,
            **counts,
        )

"""Groups that the learner has taken and refuses to train: out of the queue at once, and kept for the operator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import structlog

from learner.queue.entries import GroupRef
from learner.queue.errors import QueueError, StillAwayError
from learner.queue.keys import Keys
from learner.queue.quarantine import NOT_FINITE, quarantine_entry
from learner.queue.redis_session import RedisSession
from leeway.v1 import rollout_pb2

_KEPT = 500  # entries of the quarantine, should no gateway keep fewer


class RefusedGroups:
    """Finishes refused groups as "quarantined", as soon as the queue lets it.

    Args:
        session: connection to Redis.
        keys: the run's keys.
        finish: finishes groups with an outcome at a step; harmless for groups that are finished.
    """

    def __init__(
        self, session: RedisSession, keys: Keys, finish: Callable[[str, int, Sequence[GroupRef]], int]
    ) -> None:
        self._session = session
        self._key = keys.quarantine
        self._finish = finish
        self._waiting: deque[tuple[int, list[GroupRef], list[str]]] = deque()  # step, groups, entries

    def add(self, step: int, refused: Sequence[tuple[GroupRef, rollout_pb2.Group]], fault: str) -> None:
        """Takes in groups that step ``step`` refused; ``fault``: what was not finite, with its value."""
        entries = []
        for ref, group in refused:
            value = f"{fault}, step {step}, prompt {group.prompt_id}"
            entries.append(quarantine_entry(ref.fleet, ref.group_id, group, (NOT_FINITE, "loss", value)))
        self._waiting.append((step, [ref for ref, _ in refused], entries))

    def settle(self) -> None:
        """Finishes all groups that were taken in and are not finished yet. Raises what ``finish`` raises."""
        while self._waiting:
            step, refs, entries = self._waiting[0]
            self._finish("quarantined", step, refs)
            self._waiting.popleft()
            try:
                self._session.with_retry(lambda entries=entries: self._keep(entries))
            except StillAwayError:
                raise
            except QueueError as error:  # such as no memory: they are counted, and must not be trained, all the same
                structlog.get_logger().warning("refused groups are not kept for inspection", error=str(error))

    def _keep(self, entries: Sequence[str]) -> None:
        with self._session.client.pipeline(transaction=True) as pipeline:
            pipeline.lpush(self._key, *entries)
            pipeline.ltrim(self._key, 0, _KEPT - 1)
            pipeline.execute()

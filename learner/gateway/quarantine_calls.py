"""What a gateway does with the quarantine for operators: it lists, submits again, and deletes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from google.protobuf.message import DecodeError

from learner.config import GatewayConfig
from learner.gateway.operator_threads import OperatorThreads
from learner.gateway.quarantine_replay import chosen, leaves, resubmit
from learner.queue import GatewayQueue
from learner.queue.quarantine import Quarantine, Quarantined
from leeway.v1 import operator_pb2, rollout_pb2


class QuarantineCalls:
    """Answers operators about the quarantine. All methods raise QueueError, and InvalidRequestError for an unknown key.

    Args:
        config: where the queue is, and by which limits groups are validated.
        queue: the run's queue.
        threads: where what blocks runs.
    """

    def __init__(self, config: GatewayConfig, queue: GatewayQueue, threads: OperatorThreads) -> None:
        self._config = config
        self._queue = queue
        self._threads = threads

    async def list(self, request: operator_pb2.ListQuarantineRequest) -> AsyncIterator[operator_pb2.QuarantinedGroup]:
        """Yields the groups that are asked for, newest first."""
        for entry in await self._threads.run(self._chosen, request.keys, request.fleet):
            yield _message(entry)

    async def replay(self, request: operator_pb2.ReplayQuarantineRequest) -> operator_pb2.ReplayQuarantineResponse:
        """Submits groups again, oldest first, under the gateway's limits."""
        entries = await self._threads.run(self._chosen, request.keys, request.fleet)
        outcomes = await resubmit(self._queue, self._config.queue, self._config.limits, entries)
        groups = [operator_pb2.ReplayedGroup(key=key, left=leaves(text), outcome=text) for key, text in outcomes]
        return operator_pb2.ReplayQuarantineResponse(groups=groups)

    async def purge(self, request: operator_pb2.PurgeQuarantineRequest) -> operator_pb2.PurgeQuarantineResponse:
        """Deletes groups; without keys and fleet also those that nobody can read."""
        deleted = await self._threads.run(self._purge, request.keys, request.fleet)
        return operator_pb2.PurgeQuarantineResponse(deleted=deleted)

    def _chosen(self, keys: Sequence[str], fleet: str) -> Sequence[Quarantined]:
        with Quarantine(self._config.queue) as kept:
            return chosen(kept.entries(), keys, fleet or None)

    def _purge(self, keys: Sequence[str], fleet: str) -> int:
        with Quarantine(self._config.queue) as kept:
            if not keys and not fleet:
                return kept.purge()
            return kept.remove(chosen(kept.entries(), keys, fleet or None))


def _message(entry: Quarantined) -> operator_pb2.QuarantinedGroup:
    names = ("key", "fleet", "group_id", "reason", "field", "value")
    message = operator_pb2.QuarantinedGroup(**{name: getattr(entry, name) for name in names})
    message.time.FromMicroseconds(int(entry.time * 1e6))
    if entry.payload is not None:
        try:
            message.group.CopyFrom(rollout_pb2.Group.FromString(entry.payload))
        except DecodeError:  # its reason says that it cannot be parsed
            message.ClearField("group")
    return message

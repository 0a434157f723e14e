"""Lists a run's versions, evaluations and waiting groups for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from learner.config import GatewayConfig
from learner.gateway.operator_threads import OperatorThreads
from learner.gateway.request_errors import InvalidRequestError
from learner.queue import GatewayQueue
from learner.queue.change_journal import ChangeJournal
from learner.queue.entries import GroupRef
from learner.queue.versions_in_use import VersionsInUse, read_versions_in_use
from learner.queue.waiting_groups import WaitingGroups
from leeway.v1 import operator_pb2, rollout_pb2

_MOST_LISTED = 1000  # versions, or evaluations: a message has a largest size
_MOST_GROUPS = 1000
_GROUPS = 20  # where the request does not say


class RunListings:
    """Answers operators who ask what there is. All methods raise QueueError.

    Args:
        config: where the queue is, and by which metric the best version is chosen.
        queue: the run's queue.
        threads: where what blocks runs.
    """

    def __init__(self, config: GatewayConfig, queue: GatewayQueue, threads: OperatorThreads) -> None:
        self._config = config
        self._queue = queue
        self._threads = threads

    async def versions(self, _: operator_pb2.ListVersionsRequest) -> operator_pb2.ListVersionsResponse:
        """Returns the announced versions, newest first; at most 1000, and those that somebody runs or has pinned."""
        published = {policy.version: policy for _, policy in await self._queue.policies("0")}
        in_use, pinned = await self._threads.run(self._in_use)
        named = {*in_use.running, *pinned} | ({in_use.best} if in_use.best is not None else set())
        newest = sorted(published, reverse=True)
        listed = [*newest[:_MOST_LISTED], *(version for version in newest[_MOST_LISTED:] if version in named)]
        return operator_pb2.ListVersionsResponse(
            versions=[
                operator_pb2.ListedVersion(
                    policy=published[version],
                    run_by=in_use.running.get(version, []),
                    pinned=version in pinned,
                    best=version == in_use.best,
                )
                for version in listed
            ]
        )

    async def evaluations(self, _: operator_pb2.ListEvaluationsRequest) -> operator_pb2.ListEvaluationsResponse:
        """Returns the evaluations, newest version first; at most 1000."""
        in_use = (await self._threads.run(self._in_use))[0]
        found = [one for _, ones in sorted(in_use.evaluations.items(), reverse=True) for one in ones]
        return operator_pb2.ListEvaluationsResponse(evaluations=found[:_MOST_LISTED])

    async def groups(self, request: operator_pb2.ListGroupsRequest) -> AsyncIterator[operator_pb2.ListedGroup]:
        """Yields the newest groups that wait, one after the other: only one is in memory at a time.

        Raises:
            InvalidRequestError: the limit is too high.
        """
        if request.limit > _MOST_GROUPS:
            raise InvalidRequestError(f"limit = {request.limit}: expected 1 to {_MOST_GROUPS}, or 0 for {_GROUPS}")
        with WaitingGroups(self._config.queue) as waiting:
            for ref in await self._threads.run(waiting.newest, request.limit or _GROUPS, request.fleet):
                payload = await self._threads.run(waiting.payload, ref)
                # A group that the learner has taken and finished meanwhile waits no more.
                if payload is not None and (listed := _listed(ref, payload)) is not None:
                    yield listed

    def _in_use(self) -> tuple[VersionsInUse, set[int]]:
        with ChangeJournal(self._config.queue) as journal:
            return read_versions_in_use(self._config.queue, self._config.best), journal.pinned()


def _listed(ref: GroupRef, payload: bytes) -> operator_pb2.ListedGroup | None:
    """A group as it is listed; None if it is damaged, which the learner counts when it takes it."""
    try:
        return operator_pb2.ListedGroup(fleet=ref.fleet, group=rollout_pb2.Group.FromString(payload))
    except DecodeError:
        return None

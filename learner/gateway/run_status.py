"""The state of a run, as a gateway tells it to operators."""

from __future__ import annotations

from learner.config import QueueConfig
from learner.gateway.open_streams import OpenStreams
from learner.gateway.operator_threads import OperatorThreads
from learner.gateway.version_feed import VersionFeed
from learner.queue import GatewayQueue
from learner.queue.change_journal import ChangeJournal, InForce
from learner.queue.progress import Progress, read_progress
from leeway.v1 import operator_pb2

# What the learner says of itself -> what operators are told.
_DOING = {
    "groups": "waiting for groups",
    "redis": "waiting for Redis",
    "checkpoint": "writing a checkpoint",
    "publication": "finishing a publication",
}


class RunStatus:
    """Reads the state of a run.

    Args:
        config: where the queue is.
        queue: the run's queue.
        version_feed: knows the newest version.
        streams: the open streams of this gateway.
        threads: where what blocks runs.
    """

    def __init__(
        self,
        config: QueueConfig,
        queue: GatewayQueue,
        version_feed: VersionFeed,
        streams: OpenStreams,
        threads: OperatorThreads,
    ) -> None:
        self._config = config
        self._queue = queue
        self._version_feed = version_feed
        self._streams = streams
        self._threads = threads

    async def read(self, _: operator_pb2.GetRunStatusRequest) -> operator_pb2.GetRunStatusResponse:
        """Reads it. Raises QueueError if Redis cannot be read."""
        await self._version_feed.refresh()
        backlog = await self._queue.backlog()
        progress, in_force = await self._threads.run(self._reported)
        halt = self._queue.halt
        status = operator_pb2.GetRunStatusResponse(
            run=self._config.run,
            state=state_of(progress, halt is not None, in_force.paused),
            step=progress.step,
            epoch=progress.epoch,
            version=self._version_feed.newest,
            queued_groups=sum(one.queued for one in backlog.values()),
            uncommitted_groups=progress.uncommitted,
            halted="" if halt is None else halt.describe(self._config.run),
            changed_settings=in_force.settings,
            drained_fleets=sorted(in_force.drained),
            streams=self._streams.by_fleet(),
            last_step=progress.numbers,
        )
        if progress.reported_at is not None:
            status.reported_at.FromSeconds(int(progress.reported_at))
        return status

    def _reported(self) -> tuple[Progress, InForce]:
        with ChangeJournal(self._config) as journal:
            return read_progress(self._config), journal.in_force()


def state_of(progress: Progress, halted: bool, paused: bool) -> str:
    """Says in words what a run's learner does.

    Args:
        progress: what it has reported.
        halted: whether the queue stands still.
        paused: whether an operator has paused it.
    """
    if progress.finished:
        return "finished"
    if progress.activity is None:
        return "no learner, and paused" if paused else "no learner"
    if halted:
        return "waiting for a halted queue"
    if paused:
        return "paused"
    return _DOING.get(progress.activity, progress.activity)

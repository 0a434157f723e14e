"""What a gateway does for evaluators: it keeps the versions that they measure, and records what they report."""

from __future__ import annotations

from learner.gateway.evaluation_rules import evaluation_problem
from learner.gateway.version_feed import VersionFeed
from learner.queue import GatewayQueue
from learner.queue.evaluation_registry import MOST_NAMES
from leeway.v1 import rollout_pb2


class EvaluationCalls:
    """Answers evaluators. All methods raise QueueError.

    Args:
        queue: the run's queue, where evaluations are kept.
        version_feed: knows which versions exist.
    """

    def __init__(self, queue: GatewayQueue, version_feed: VersionFeed) -> None:
        self._queue = queue
        self._version_feed = version_feed

    async def keep(self, fleet: str, request: rollout_pb2.LeaseRequest) -> None:
        """Keeps the versions on disk that an evaluator says it measures or fetches; those that do not exist are ignored.

        An evaluator is no fleet: it takes no share of anything, and has no ledger.
        """
        versions = {request.worker: request.running_version} if request.HasField("running_version") else {}
        if request.HasField("fetching_version"):
            versions[f"{request.worker}/fetching"] = request.fetching_version
        for worker, version in versions.items():
            if version in self._version_feed.known:
                await self._queue.evaluations.pin(fleet, worker, version)

    async def record(self, evaluation: rollout_pb2.Evaluation) -> str | None:
        """Records an evaluation. Returns what is wrong with it, None if it is recorded."""
        if evaluation.version not in self._version_feed.known:
            await self._version_feed.refresh()  # another gateway may have announced it already
        if (problem := evaluation_problem(evaluation, self._version_feed.known)) is not None:
            return f"evaluation.{problem}"
        if not await self._queue.evaluations.record(evaluation):
            pair = f"evaluation.name = {evaluation.name!r}, sampling = {evaluation.sampling!r}"
            return (
                f"{pair}: the run has evaluations of {MOST_NAMES} other names and samplings, and no more are recorded"
            )
        return None


def only_reports(request: rollout_pb2.LeaseRequest) -> bool:
    """Whether a request asks for no groups and has no leases: an evaluator may send no other one."""
    return not (request.groups or request.held_lease_ids or request.returned_lease_ids)

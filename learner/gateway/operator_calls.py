"""Says what answers each call of an operator."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from learner.config import GatewayConfig
from learner.gateway.auth import Identities
from learner.gateway.call_gate import CallGate
from learner.gateway.change_calls import ChangeCalls
from learner.gateway.identity_calls import IdentityCalls
from learner.gateway.identity_feed import IdentityFeed
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.operator_service import Answer, Listing, OperatorService
from learner.gateway.operator_threads import OperatorThreads
from learner.gateway.quarantine_calls import QuarantineCalls
from learner.gateway.run_listings import RunListings
from learner.gateway.run_status import RunStatus
from learner.gateway.version_feed import VersionFeed
from learner.queue import GatewayQueue, recount
from leeway.v1 import operator_pb2

_RECOUNT_S = 590.0  # below the time limit of the call


@dataclass(frozen=True)
class OperatorParts:
    """What the answers to operators are made of.

    Attributes:
        config: the gateway's settings.
        identities: those that the gateway knows.
        feed: puts changed identities in force.
        version_feed: knows which versions there are.
        queue: the run's queue.
        threads: where what blocks runs.
    """

    config: GatewayConfig
    identities: Identities
    feed: IdentityFeed
    version_feed: VersionFeed
    queue: GatewayQueue
    threads: OperatorThreads


def operator_service(parts: OperatorParts, gate: CallGate, metrics: GatewayMetrics) -> OperatorService:
    """Composes the service that answers operators."""
    queue_config, threads = parts.config.queue, parts.threads
    status = RunStatus(queue_config, parts.queue, parts.version_feed, gate.streams, threads)
    quarantine = QuarantineCalls(parts.config, parts.queue, threads)
    identities = IdentityCalls(queue_config, parts.identities, parts.feed, threads)
    listings = RunListings(parts.config, parts.queue, threads)
    changes = ChangeCalls(parts.config, parts.identities, parts.version_feed, threads)

    async def recounted(_: operator_pb2.RecountLedgersRequest) -> operator_pb2.RecountLedgersResponse:
        found = await threads.run(recount, queue_config, deadline=time.monotonic() + _RECOUNT_S)
        texts = [one.text for one in found.discrepancies]
        return operator_pb2.RecountLedgersResponse(
            groups=found.entries, discrepancies=texts, unverified=found.unverified
        )

    answers: dict[str, Answer] = {
        "GetRunStatus": _anonymous(status.read),
        "RecountLedgers": _anonymous(recounted),
        "ReplayQuarantine": _anonymous(quarantine.replay),
        "PurgeQuarantine": _anonymous(quarantine.purge),
        "ListIdentities": _anonymous(identities.list),
        "AddIdentity": _anonymous(identities.add),
        "RevokeIdentity": _anonymous(identities.revoke),
        "ListVersions": _anonymous(listings.versions),
        "ListEvaluations": _anonymous(listings.evaluations),
        "RequestChange": changes.request,
        "ListChanges": _anonymous(changes.list),
    }
    streams: dict[str, Listing] = {
        "ListQuarantine": _anonymous_listing(quarantine.list),
        "ListGroups": _anonymous_listing(listings.groups),
    }
    return OperatorService(gate, answers, streams, metrics.operator)


def _anonymous(answer: Callable[[Any], Awaitable[Message]]) -> Answer:
    """An answer that does not depend on who asks."""
    return lambda _, request: answer(request)


def _anonymous_listing(listing: Callable[[Any], AsyncIterator[Message]]) -> Listing:
    """A listing that does not depend on who asks."""
    return lambda _, request: listing(request)

"""The RPCs of leeway.v1.RolloutService, as the contract describes them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc
import grpc.aio
import structlog

from learner.config import GatewayConfig
from learner.gateway.admission import Admission
from learner.gateway.auth import Tokens, UnauthenticatedError
from learner.gateway.intake import Intake
from learner.gateway.policies import Policies
from learner.gateway.stream import SubmitStream
from learner.queue import GatewayQueue, LeaseWish, MemoryFullError, QueueError
from leeway.v1 import rollout_pb2, rollout_pb2_grpc

_LEASE_RETRY_MS = 200
_MAX_WORKER_BYTES = 64
_MAX_RETURNED = 1024
_DRAINING = "this gateway is draining: connect again, and send every group without an ack again"


class RolloutService(rollout_pb2_grpc.RolloutServiceServicer):
    """Answers fleets. Holds nothing but streams: what it has promised is in Redis.

    Attributes:
        draining: set once; then nothing new is read, and streams end when every group they have read has its ack.
    """

    def __init__(
        self, config: GatewayConfig, tokens: Tokens, intake: Intake, policies: Policies, queue: GatewayQueue
    ) -> None:
        self.draining = asyncio.Event()
        self._tokens = tokens
        self._intake = intake
        self._policies = policies
        self._queue = queue
        self._max_unacked = config.max_unacked
        self._lease_s = config.admission.lease_s
        self._bound = Admission(config.admission).bound
        self._streams = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._log = structlog.get_logger(process="gateway")

    async def idle(self) -> None:
        """Waits until no Submit stream is open."""
        await self._idle.wait()

    async def Submit(
        self, requests: AsyncIterator[rollout_pb2.SubmitRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """See the contract."""
        fleet = await self._fleet(context)
        stream = SubmitStream(fleet, self._intake, self._max_unacked)
        self._streams += 1
        self._idle.clear()
        try:
            await stream.run(requests, context.write, self.draining)
            if self.draining.is_set():
                await context.abort(grpc.StatusCode.UNAVAILABLE, _DRAINING)
        finally:
            self._streams -= 1
            if not self._streams:
                self._idle.set()

    async def Lease(
        self, request: rollout_pb2.LeaseRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.LeaseResponse:
        """See the contract."""
        fleet = await self._fleet(context)
        if (problem := _lease_problem(request)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        running = request.running_version if request.HasField("running_version") else None
        wish = LeaseWish(
            fleet=fleet,
            lease_id=uuid.uuid4().hex,
            groups=request.groups,
            lifetime_s=self._lease_s,
            worker=request.worker,
            # Weights that a fleet runs are kept; one that names versions nobody published must not keep them all.
            running_version=running if running in self._policies.known else None,
            returned=request.returned_lease_ids,
        )
        try:
            granted = await self._queue.lease(wish, self._bound)
        except MemoryFullError:
            granted = 0
        except QueueError as error:
            await self._unavailable(context, error)
        if granted == 0:
            return rollout_pb2.LeaseResponse(retry_after_ms=_LEASE_RETRY_MS)
        return rollout_pb2.LeaseResponse(
            lease_id=wish.lease_id, groups=granted, expires_in_ms=int(wish.lifetime_s * 1000)
        )

    async def WatchPolicy(self, request: rollout_pb2.WatchPolicyRequest, context: grpc.aio.ServicerContext) -> None:
        """See the contract."""
        await self._fleet(context)
        known = request.known_version if request.HasField("known_version") else None
        async for policy in self._policies.watch(known):
            await context.write(rollout_pb2.WatchPolicyResponse(policy=policy))
        await context.abort(grpc.StatusCode.UNAVAILABLE, _DRAINING)

    async def GetLedger(
        self, request: rollout_pb2.GetLedgerRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.GetLedgerResponse:
        """See the contract."""
        fleet = await self._fleet(context)
        try:
            return rollout_pb2.GetLedgerResponse(ledger=await self._queue.ledger(fleet))
        except QueueError as error:
            await self._unavailable(context, error)

    async def _fleet(self, context: grpc.aio.ServicerContext) -> str:
        """The calling fleet; ends the call when it cannot be told, or when we drain."""
        try:
            fleet = self._tokens.fleet(context.invocation_metadata())
        except UnauthenticatedError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if self.draining.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, _DRAINING)
        return fleet

    async def _unavailable(self, context: grpc.aio.ServicerContext, error: QueueError) -> NoReturn:
        # What Redis said is for our log; a fleet need not know our insides.
        self._log.warning("call refused", error=str(error))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the queue does not answer; try again in a second")


def _lease_problem(request: rollout_pb2.LeaseRequest) -> str | None:
    """What is wrong with a LeaseRequest; None when it is well-formed."""
    if request.groups < 1:
        return f"groups = {request.groups}: expected at least 1"
    if len(request.worker.encode()) > _MAX_WORKER_BYTES:
        return f"worker = {request.worker[:_MAX_WORKER_BYTES]!r}...: expected at most {_MAX_WORKER_BYTES} bytes"
    if len(request.returned_lease_ids) > _MAX_RETURNED:
        return f"returned_lease_ids: {len(request.returned_lease_ids)} ids, expected at most {_MAX_RETURNED}"
    return None

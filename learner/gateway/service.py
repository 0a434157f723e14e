"""Implements the calls of leeway.v1.RolloutService; the contract, proto/leeway/v1/rollout.proto, specifies them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio

from learner.config import AdmissionConfig, GatewayConfig
from learner.gateway.auth import Role
from learner.gateway.byte_budget import ByteBudget
from learner.gateway.call_gate import CallGate, exhausted, parsed, require_role, unavailable
from learner.gateway.connection_limits import ExhaustedError
from learner.gateway.evaluation_calls import EvaluationCalls, only_reports
from learner.gateway.lease_limit import within_age
from learner.gateway.lease_shares import LeaseShares
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.parsing import MalformedError
from learner.gateway.run_description import describe_run
from learner.gateway.submit_call import SubmitCall
from learner.gateway.submit_handler import SubmitHandler
from learner.gateway.version_feed import VersionFeed
from learner.gateway.violation import PRINTABLE
from learner.queue import GatewayQueue, LeaseWish, MemoryFullError, QueueError
from leeway.v1 import rollout_pb2, rollout_pb2_grpc

_LEASE_RETRY_MS = 200
_FINISHED_RETRY_MS = 10_000
_MAX_WORKER_BYTES = 64
_MAX_LEASE_IDS = 1024
_MAX_LEASE_ID_CHARACTERS = 64
_LAST_WORD_S = 1.0  # for the message that the run has finished, on a stream that is being closed


class RolloutService(rollout_pb2_grpc.RolloutServiceServicer):
    """Answers the calls of fleets. Its only state is the open streams: leases and groups are in Redis.

    Args:
        config: limits of leases.
        gate: authenticates callers, and limits how often they call.
        handler: takes submitted groups.
        version_feed: knows which versions exist.
        queue: the run's queue.
        metrics: counts calls and streams.

    Attributes:
        streams: the open streams.
        budget: the bytes of groups that were read and have no outcome yet.
    """

    def __init__(
        self,
        config: GatewayConfig,
        gate: CallGate,
        handler: SubmitHandler,
        version_feed: VersionFeed,
        queue: GatewayQueue,
        metrics: GatewayMetrics,
    ) -> None:
        self._config = config
        self._gate = gate
        self._handler = handler
        self._version_feed = version_feed
        self._queue = queue
        self._max_unacked = config.max_unacked
        self._metrics = metrics
        self._admission = config.admission
        self.configure(config.admission, frozenset())
        self._evaluations = EvaluationCalls(queue, version_feed)
        self.streams = gate.streams
        self.budget = ByteBudget(config.max_unacked_bytes, config.max_unacked_bytes_per_fleet)

    def configure(self, admission: AdmissionConfig, drained: frozenset[str]) -> None:
        """Takes other weights of fleets, and the fleets whose leases are granted no groups."""
        self._lease_shares, self._drained = LeaseShares(admission), drained

    async def Submit(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Takes groups and returns acks until either side ends the stream."""
        caller = await self._gate.caller(context, "submit")
        stream = SubmitCall(caller.fleet, self._handler, self._max_unacked, self.budget)
        try:
            with self.streams.opened(caller, "submit", lambda: stream.received) as opened:
                await stream.run(requests, context.write, opened.closing)
                if opened.closing.is_set():
                    await context.abort(opened.code, opened.text)
        except ExhaustedError as error:
            await exhausted(context, error)
        except MalformedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def Lease(self, message: bytes, context: grpc.aio.ServicerContext) -> rollout_pb2.LeaseResponse:
        """Grants a fleet groups to generate now, within its share of the staleness bound, and renews leases it holds."""
        caller = await self._gate.caller_of_call(context, None)
        if "evaluate" not in caller.roles:
            await require_role(context, caller, "submit")
        request = await parsed(context, rollout_pb2.LeaseRequest, message)
        evaluates = "evaluate" in caller.roles and only_reports(request)
        if not evaluates:
            await require_role(context, caller, "submit")
        fleet = caller.fleet
        if (problem := lease_problem(request)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        if evaluates:
            return await self._kept(fleet, request, context)
        known = self._version_feed.known
        running = request.running_version if request.HasField("running_version") else None
        fetching = request.fetching_version if request.HasField("fetching_version") else None
        wish = LeaseWish(
            fleet=fleet,
            lease_id=uuid.uuid4().hex,
            groups=0 if self._version_feed.finished or fleet in self._drained else request.groups,
            lifetime_s=self._admission.lease_s,
            worker=request.worker,
            # What a fleet runs or fetches is kept on disk, but only if it exists: a fleet could name any number.
            running_version=running if running in known else None,
            returned=request.returned_lease_ids,
            fetching_version=fetching if fetching in known else None,
        )
        try:
            lost = await self._renew(fleet, request.held_lease_ids)
            granted = await self._grant(wish)
        except QueueError as error:
            await unavailable(context, error)
        return rollout_pb2.LeaseResponse(
            lease_id=wish.lease_id if granted else "",
            groups=granted,
            expires_in_ms=int(wish.lifetime_s * 1000) if granted or request.held_lease_ids else 0,
            retry_after_ms=0 if granted or not request.groups else self._retry_ms(),
            lost_lease_ids=lost,
        )

    async def _kept(
        self, fleet: str, request: rollout_pb2.LeaseRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.LeaseResponse:
        try:
            await self._evaluations.keep(fleet, request)
        except QueueError as error:
            await unavailable(context, error)
        return rollout_pb2.LeaseResponse()

    async def ReportEvaluation(
        self, message: bytes, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.ReportEvaluationResponse:
        """Records what a version is worth, as an evaluator has measured it."""
        await self._gate.caller_of_call(context, "evaluate")
        request = await parsed(context, rollout_pb2.ReportEvaluationRequest, message)
        try:
            problem = await self._evaluations.record(request.evaluation)
        except QueueError as error:
            await unavailable(context, error)
        if problem is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        return rollout_pb2.ReportEvaluationResponse()

    def _retry_ms(self) -> int:
        return _FINISHED_RETRY_MS if self._version_feed.finished else _LEASE_RETRY_MS

    async def WatchPolicy(self, message: bytes, context: grpc.aio.ServicerContext) -> None:
        """Sends the newest version, then each newer one, until the run has finished or either side ends the stream."""
        caller = await self._gate.caller(context, None)
        role: Role = "evaluate" if "evaluate" in caller.roles else "submit"
        await require_role(context, caller, role)
        request = await parsed(context, rollout_pb2.WatchPolicyRequest, message)
        known = request.known_version if request.HasField("known_version") else None
        try:
            with self.streams.opened(caller, role) as opened:
                closing = asyncio.create_task(opened.closing.wait())
                writing = asyncio.create_task(self._write_policies(known, context))
                try:
                    await asyncio.wait({writing, closing}, return_when=asyncio.FIRST_COMPLETED)
                    if self._version_feed.finished:
                        await asyncio.wait({writing}, timeout=_LAST_WORD_S)
                    if writing.done() and writing.result():
                        return
                finally:
                    writing.cancel()
                    closing.cancel()
                await context.abort(opened.code, opened.text)
        except ExhaustedError as error:
            await exhausted(context, error)

    async def DescribeRun(self, message: bytes, context: grpc.aio.ServicerContext) -> rollout_pb2.DescribeRunResponse:
        """Returns what a fleet has to know of the run before it generates anything."""
        caller = await self._gate.caller_of_call(context, None)
        if not caller.roles:
            await require_role(context, caller, "submit")
        await parsed(context, rollout_pb2.DescribeRunRequest, message)
        return describe_run(self._config, self._version_feed.finished)

    async def GetLedger(self, message: bytes, context: grpc.aio.ServicerContext) -> rollout_pb2.GetLedgerResponse:
        """Returns one fleet's ledger: the caller's own, or any if the caller is an operator."""
        caller = await self._gate.caller_of_call(context, None)
        request = await parsed(context, rollout_pb2.GetLedgerRequest, message)
        fleet = request.fleet or caller.fleet
        if fleet != caller.fleet:
            await require_role(context, caller, "operate")
        try:
            return rollout_pb2.GetLedgerResponse(ledger=await self._queue.ledger(fleet))
        except QueueError as error:
            await unavailable(context, error)

    async def ListLedgers(self, message: bytes, context: grpc.aio.ServicerContext) -> rollout_pb2.ListLedgersResponse:
        """Returns every fleet's ledger, to operators only."""
        await self._gate.caller_of_call(context, "operate")
        await parsed(context, rollout_pb2.ListLedgersRequest, message)
        try:
            return rollout_pb2.ListLedgersResponse(ledgers=await self._queue.ledgers())
        except QueueError as error:
            await unavailable(context, error)

    async def _renew(self, fleet: str, held: Sequence[str]) -> Sequence[str]:
        """Renews leases, before any that has expired is taken back. Returns those that could not be renewed."""
        if not held:
            return ()
        admission = self._admission
        lost = await self._queue.leases.renew(fleet, held, admission.lease_s, admission.longest_lease_s)
        self._metrics.renewed(fleet, len(held), len(lost))
        return lost

    async def _grant(self, wish: LeaseWish) -> int:
        """Grants what the fleet's share has space for; nothing while Redis is full. A wish for none is only recorded."""
        occupancy = await self._queue.leases.occupancy()
        try:
            left = self._version_feed.ages.steps_left(wish.running_version, occupancy.step)
            allowance = self._lease_shares.allowance(wish.fleet, occupancy)
            within = within_age(allowance, left, self._lease_shares.per_step(occupancy))
            granted = await self._queue.leases.grant(wish, within)
        except MemoryFullError:
            granted = 0
        if wish.groups:
            self._metrics.leased(wish.fleet, granted)
        return granted

    async def _write_policies(self, known: int | None, context: grpc.aio.ServicerContext) -> bool:
        """Sends policies until there will be none. Returns whether that is because the run has finished."""
        async for policy in self._version_feed.watch(known):
            await context.write(rollout_pb2.WatchPolicyResponse(policy=policy))
        if self._version_feed.finished:
            await context.write(rollout_pb2.WatchPolicyResponse(finished=True))
        return self._version_feed.finished


def lease_problem(request: rollout_pb2.LeaseRequest) -> str | None:
    """Describes what is wrong with a LeaseRequest; None if it is well-formed."""
    leases = request.held_lease_ids or request.returned_lease_ids
    if request.groups < 1 and not leases and not request.HasField("fetching_version"):
        return (
            f"groups = {request.groups}: expected at least 1, or leases to renew in held_lease_ids or to give back in "
            "returned_lease_ids, or a fetching_version"
        )
    if len(request.worker.encode()) > _MAX_WORKER_BYTES:
        return f"worker = {request.worker[:_MAX_WORKER_BYTES]!r}...: expected at most {_MAX_WORKER_BYTES} bytes"
    if not request.worker.isprintable():
        return f"worker = {request.worker!r}: expected {PRINTABLE}"
    for name, lease_ids in (("returned", request.returned_lease_ids), ("held", request.held_lease_ids)):
        if len(lease_ids) > _MAX_LEASE_IDS:
            return f"{name}_lease_ids: {len(lease_ids)} ids, expected at most {_MAX_LEASE_IDS} in one call"
        for number, lease_id in enumerate(lease_ids):
            if len(lease_id) > _MAX_LEASE_ID_CHARACTERS:
                text = f"{lease_id[:_MAX_LEASE_ID_CHARACTERS]!r}..."
                return f"{name}_lease_ids[{number}] = {text}: expected at most {_MAX_LEASE_ID_CHARACTERS} characters"
    return None

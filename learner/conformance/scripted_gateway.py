"""A gateway that plays a script to one fleet and watches whether the fleet obeys the contract. It trains nothing."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio

from learner.config import LimitsConfig
from learner.conformance.report import Report
from learner.conformance.rules import FLEET_RULES
from learner.conformance.script import REASONS, RETRY_AFTER_MS, SCRIPT, FleetScript, Received
from learner.gateway.run_description import describe_limits
from learner.gateway.validation import Violation, validate
from leeway.v1 import rollout_pb2, rollout_pb2_grpc

_GRANT = 4  # groups, at most, in one lease
_NOTHING, _AWAY = 3, 2  # the lease call that grants 0 groups, and the one that fails
_MOST_EARLY = 3  # lease requests within a pause: a fleet may have several that wait independently
_LATE_S = 0.8  # share of a pause after which a request counts as on time: clocks and schedulers differ
_LEASE_MS = 60_000
_BROKEN = "the script breaks this stream"


class ScriptedGateway(rollout_pb2_grpc.RolloutServiceServicer):
    """Answers a fleet's calls by the script.

    Args:
        token: the bearer token that the fleet has to send.
        limits: what groups are checked against, and what DescribeRun tells.
        policies: the versions that are announced, the second one in the middle of the script.

    Attributes:
        report: the verdicts so far.
        script: the groups so far.
        calls: streams that are open.
    """

    def __init__(self, token: str, limits: LimitsConfig, policies: list[rollout_pb2.Policy]) -> None:
        self.report = Report(FLEET_RULES)
        self.script = FleetScript()
        self.calls = 0
        self._token = token
        self._limits = limits
        self._policies = policies
        self._announced: set[int] = set()
        self._leases: dict[str, int] = {}
        self._lease_calls = 0
        self._pause_until = 0.0
        self._early = 0
        self._changed = asyncio.Condition()
        self._finished = False

    @property
    def newest_used(self) -> bool:
        """Whether a group of the last announced version has arrived."""
        return self.report.rules[list(FLEET_RULES).index("newer")].state == "ok"

    async def finish(self) -> None:
        """Tells the fleet that the run has finished."""
        self._finished = True
        await self._notify()

    async def DescribeRun(
        self, request: rollout_pb2.DescribeRunRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.DescribeRunResponse:
        """Tells the limits."""
        await self._authorise(context)
        if not self.script.groups:
            self.report.kept("describe")
        description = describe_limits(self._limits)
        description.run, description.finished = "conformance", self._finished
        description.max_staleness, description.expire_after = 4, 32
        return description

    async def Lease(
        self, request: rollout_pb2.LeaseRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.LeaseResponse:
        """Grants a few groups at a time; once it grants none, and once it fails."""
        await self._authorise(context)
        if not request.groups:
            return rollout_pb2.LeaseResponse(expires_in_ms=_LEASE_MS)
        now = time.monotonic()
        self._early += now < self._pause_until
        if self._pause_until and (now >= self._pause_until or self._early > _MOST_EARLY):
            fault = f"more than {_MOST_EARLY} requests came before retry_after_ms = {RETRY_AFTER_MS} were over"
            self.report.check("lease_pause", self._early <= _MOST_EARLY, fault)
        if self._lease_calls == _AWAY + 1:
            self.report.kept("lease_again")
        self._lease_calls += 1
        if self._lease_calls == _AWAY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the script says that this gateway is away")
        if self._finished or self._lease_calls == _NOTHING:
            self._pause_until = now + RETRY_AFTER_MS / 1000 * _LATE_S
            self._early = 0
            return rollout_pb2.LeaseResponse(retry_after_ms=RETRY_AFTER_MS)
        lease_id = uuid.uuid4().hex
        self._leases[lease_id] = min(_GRANT, request.groups)
        return rollout_pb2.LeaseResponse(lease_id=lease_id, groups=self._leases[lease_id], expires_in_ms=_LEASE_MS)

    async def WatchPolicy(
        self, request: rollout_pb2.WatchPolicyRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[rollout_pb2.WatchPolicyResponse]:
        """Announces the first version, in the middle of the script the second one, and at the end the end."""
        await self._authorise(context)
        known = request.known_version if request.HasField("known_version") else -1
        while True:
            due = [policy for policy in self._due() if policy.version > known]
            if due:
                known = due[-1].version
                self._announced.add(known)
                yield rollout_pb2.WatchPolicyResponse(policy=due[-1])
            if self._finished:
                yield rollout_pb2.WatchPolicyResponse(finished=True)
                return
            async with self._changed:
                await self._changed.wait()

    async def Submit(
        self, requests: AsyncIterator[rollout_pb2.SubmitRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[rollout_pb2.SubmitResponse]:
        """Takes groups, and does to each what the script says."""
        await self._authorise(context)
        sequences: set[int] = set()
        acked: set[str] = set()
        self.calls += 1
        await self._notify()
        try:
            async for message in requests:
                for request in _flat(message):
                    unused = request.sequence not in sequences
                    self.report.check("sequence", unused, f"sequence {request.sequence} came twice in a stream")
                    sequences.add(request.sequence)
                    ack = self._ack(request)
                    await self._notify()
                    if ack is None:
                        for group_id in acked & self.script.groups.keys():
                            self.script.groups[group_id].unsure = True
                        await context.abort(grpc.StatusCode.UNAVAILABLE, _BROKEN)
                    acked.add(ack.group_id)
                    yield rollout_pb2.SubmitResponse(acks=[ack])
        finally:
            self.calls -= 1
            await asyncio.shield(self._notify())

    def _ack(self, request: rollout_pb2.SubmitRequest) -> rollout_pb2.Ack | None:
        """Returns the ack of a group; None if the stream has to break before it."""
        group = request.group
        ack = rollout_pb2.Ack(sequence=request.sequence, group_id=group.group_id)
        if self._finished:
            ack.outcome, ack.reason = rollout_pb2.OUTCOME_RETRY, "run_finished"
            ack.retry_after_ms = 10_000
            return ack
        content = group.SerializeToString(deterministic=True)
        received = self.script.received(group.group_id, content)
        if received.arrivals == 1:
            self._examine(request)
        else:
            self.report.check(
                "same_id", content == received.content, f"{group.group_id} came again with another content"
            )
        return self._play(received, ack)

    def _play(self, received: Received, ack: rollout_pb2.Ack) -> rollout_pb2.Ack | None:
        first, fate = received.arrivals == 1, received.fate
        if received.done and not received.owed and not received.unsure:
            rule = {"reject": "rejected", "lose_ack": "duplicate"}.get(fate, "accepted")
            self.report.broken(rule, f"{ack.group_id} came again after its ack")
        received.unsure = False
        if first and fate in ("break", "lose_ack"):
            received.done = fate == "lose_ack"
            return None
        if first and fate == "retry":
            received.retry_until = time.monotonic() + RETRY_AFTER_MS / 1000 * _LATE_S
            ack.outcome, ack.reason, ack.retry_after_ms = rollout_pb2.OUTCOME_RETRY, REASONS[fate], RETRY_AFTER_MS
            return ack
        if fate == "retry" and received.arrivals == 2:
            early = time.monotonic() < received.retry_until
            self.report.check("retry", not early, f"{ack.group_id} came again before retry_after_ms = {RETRY_AFTER_MS}")
        if received.arrivals == 2 and fate in ("break", "lose_ack"):
            self.report.kept("resend")
        if fate == "reject":
            ack.outcome, ack.reason = rollout_pb2.OUTCOME_REJECTED, REASONS[fate]
            ack.field, ack.value = "responses[0].reward", "the script rejects this group (allowed: nothing)"
        else:
            ack.outcome = rollout_pb2.OUTCOME_DUPLICATE if received.done else rollout_pb2.OUTCOME_ACCEPTED
        received.done, received.owed = True, False
        return ack

    def _examine(self, request: rollout_pb2.SubmitRequest) -> None:
        """Checks a group that comes for the first time."""
        found = validate(request.group, self._limits, self._announced)
        if isinstance(found, Violation):
            name = "versions" if found.reason == "unknown_version" else "valid"
            self.report.broken(name, f"{found.reason}: {found.field}: {found.value}")
        else:
            self.report.kept("valid")
            self.report.kept("versions")
        text = request.group.SerializeToString()
        if len(self._announced) == len(self._policies) and _names(request.group, self._policies[-1].version):
            self.report.kept("newer")
        if len(text) > self._limits.max_message_bytes:
            self.report.broken("valid", f"{request.group.group_id}: {len(text)} bytes")
        if not request.lease_id:
            self.report.skipped(
                "lease", "groups came without a lease, which works only while no other fleet asks for any"
            )
            return
        left = self._leases.get(request.lease_id)
        if self.report.check("lease", left is not None, f"{request.lease_id!r} is no lease that was granted"):
            assert left is not None
            self._leases[request.lease_id] = left - 1
            self.report.check("lease", left > 0, f"more groups than granted under lease {request.lease_id}")

    def _due(self) -> list[rollout_pb2.Policy]:
        later = len(self.script.groups) >= len(SCRIPT) // 2
        return self._policies if later else self._policies[:1]

    async def _authorise(self, context: grpc.aio.ServicerContext) -> None:
        metadata: Any = dict(context.invocation_metadata() or ())
        presented = metadata.get("authorization", "")
        if not self.report.check(
            "credentials", presented == f"Bearer {self._token}", f"authorization: {presented[:20]!r}..."
        ):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is another one")

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until_played(self, then_newer_s: float) -> None:
        """Waits until the script is played, and then for a group of the newest version, at most ``then_newer_s``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.script.played)
            try:
                async with asyncio.timeout(then_newer_s):
                    await self._changed.wait_for(lambda: self.newest_used)
            except TimeoutError:
                self.report.broken("newer", f"no group of version {self._policies[-1].version} came")

    async def until_left(self) -> None:
        """Waits until no Submit stream is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.calls)


def _flat(request: rollout_pb2.SubmitRequest) -> Iterator[rollout_pb2.SubmitRequest]:
    yield request
    for more in request.more:
        yield from _flat(more)


def _names(group: rollout_pb2.Group, version: int) -> bool:
    """Whether a span of the group names a version."""
    return any(
        span.version == version
        for response in group.responses
        for part in (response, *response.segments)
        for span in part.spans
    )

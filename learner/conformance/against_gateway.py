"""Checks a gateway: sends it a dozen groups without contrast and calls of every kind, and compares the answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import grpc
import grpc.aio

from learner.conformance.report import Report
from learner.conformance.rules import GATEWAY_RULES
from learner.conformance.scripted_fleet import GroupMaker, ScriptedFleet
from leeway.v1 import rollout_pb2 as pb
from runtime.errors import LeewayError

_POLICY_S = 30.0
_LEASE_S = 30.0  # in which a lease has to be granted for the groups that are tried
_NO_LEASE = "no lease was granted: the run's queue is full, or other fleets use it up; try again on an idle run"


class ConformanceError(LeewayError):
    """A gateway that cannot be tried at all. The message says what it answered."""


async def check_gateway(address: str, token: str) -> Report:
    """Tries every rule on a gateway that serves a run, and returns what was found.

    The run's ledger counts the groups; they are trained without effect, as their rewards are all equal.

    Args:
        address: host:port of the gateway.
        token: a fleet's bearer token.

    Raises:
        ConformanceError: the gateway cannot be reached, refuses the token, or does not answer DescribeRun.
    """
    report = Report(GATEWAY_RULES)
    fleet = ScriptedFleet(address, token)
    try:
        run = await _description(fleet, report)
        await _strangers(address, report)
        await _calls(fleet, report)
        policy = await fleet.newest(_POLICY_S)
        if policy is None:
            report.skipped("policy", f"no version was announced within {_POLICY_S:g} s: nothing can be submitted")
            return report
        report.kept("policy")
        before = (await fleet.call("GetLedger", pb.GetLedgerRequest())).ledger
        sent = await _Groups(fleet, report, GroupMaker(run, policy.version)).run()
        await _ledger(fleet, report, before, sent)
    except grpc.aio.AioRpcError as error:
        raise ConformanceError(
            f"{address}: {error.code().name}: {error.details()}; check address and token, and that a gateway serves there"
        ) from error
    finally:
        await fleet.close()
    return report


async def _description(fleet: ScriptedFleet, report: Report) -> pb.DescribeRunResponse:
    run = await fleet.call("DescribeRun", pb.DescribeRunRequest())
    ranges = (
        ("group size", 1 <= run.min_group_size <= run.max_group_size),
        ("reward", run.min_reward <= run.max_reward),
        ("temperature", 0 < run.min_temperature <= run.max_temperature),
        ("lengths", run.max_prompt_tokens > 0 and run.max_response_tokens > 0 and run.max_response_context_tokens > 0),
        ("vocabulary", run.vocab_size > 0),
        ("message size", run.max_message_bytes > 0),
        ("revision", run.contract_revision > 0),
    )
    for what, sensible in ranges:
        report.check("describe", sensible, f"{what}: {run}")
    return run


async def _strangers(address: str, report: Report) -> None:
    """Calls without credentials and with unknown ones."""
    for token in (None, "no-fleet-has-this-token"):
        stranger = ScriptedFleet(address, token)
        try:
            for method, request in (("Lease", pb.LeaseRequest(groups=1)), ("DescribeRun", pb.DescribeRunRequest())):
                code = await stranger.code_of(method, request)
                fault = f"{method} with token {token!r}: {code.name}"
                report.check("unauthenticated", code is grpc.StatusCode.UNAUTHENTICATED, fault)
        finally:
            await stranger.close()


async def _calls(fleet: ScriptedFleet, report: Report) -> None:
    code = await fleet.code_of("ListLedgers", pb.ListLedgersRequest())
    if code is grpc.StatusCode.OK:
        report.skipped("role", "the token has the role operate; use one that may only submit")
    else:
        report.check("role", code is grpc.StatusCode.PERMISSION_DENIED, f"ListLedgers: {code.name}")
    code = await fleet.code_of("ReportEvaluation", pb.ReportEvaluationRequest())
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        report.skipped("evaluate", "the token has the role evaluate; use one that may only submit")
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        report.skipped("evaluate", "the gateway takes no evaluations: its contract revision is below 3")
    else:
        report.check("evaluate", code is grpc.StatusCode.PERMISSION_DENIED, f"ReportEvaluation: {code.name}")
    code = await fleet.code_of("Lease", pb.LeaseRequest(groups=1, worker="a\nb"))
    report.check("invalid_call", code is grpc.StatusCode.INVALID_ARGUMENT, f"worker with a line break: {code.name}")


class _Groups:
    """Sends groups and checks their acks."""

    def __init__(self, fleet: ScriptedFleet, report: Report, make: GroupMaker) -> None:
        self._fleet = fleet
        self._report = report
        self._make = make
        self._sent: Counter[str] = Counter()

    async def run(self) -> Counter[str]:
        """Tries what concerns groups. Returns how many groups had which outcome."""
        lease = await self._lease(16)
        if not lease.groups:
            self._report.skipped("accepted", _NO_LEASE)
            return self._sent
        await self._accepted(lease.lease_id)
        await self._rejected(lease.lease_id)
        await self._refused_streams()
        await self._fleet.call("Lease", pb.LeaseRequest(returned_lease_ids=[lease.lease_id]))
        return self._sent

    async def _lease(self, groups: int) -> pb.LeaseResponse:
        async def granted() -> pb.LeaseResponse:
            while True:
                lease = await self._fleet.call("Lease", pb.LeaseRequest(groups=groups, worker="conformance"))
                fault = f"asked for {groups}: {lease}"
                sensible = lease.groups <= groups and (lease.lease_id if lease.groups else lease.retry_after_ms)
                self._report.check("lease", bool(sensible), fault)
                if lease.groups:
                    return lease
                await asyncio.sleep(max(lease.retry_after_ms, 50) / 1000)

        try:
            return await asyncio.wait_for(granted(), _LEASE_S)
        except TimeoutError:
            return pb.LeaseResponse()

    async def _accepted(self, lease_id: str) -> None:
        group = self._make.valid()
        acks = await self._submit([_request(7, group, lease_id)])
        exact = [(ack.sequence, ack.group_id, ack.outcome) for ack in acks]
        self._report.check("accepted", exact == [(7, group.group_id, pb.OUTCOME_ACCEPTED)], f"acks: {acks}")
        acks = await self._submit([_request(0, group, lease_id)])
        self._report.check("duplicate", _outcomes(acks) == {0: pb.OUTCOME_DUPLICATE}, f"acks: {acks}")
        first = _request(1, self._make.valid(), lease_id)
        first.more.extend(_request(number, self._make.valid(), lease_id) for number in (2, 3))
        acks = await self._submit([first])
        wanted = dict.fromkeys((1, 2, 3), pb.OUTCOME_ACCEPTED)
        self._report.check("several", _outcomes(acks) == wanted and len(acks) == 3, f"acks: {acks}")
        for rule, response in (
            ("segments", self._make.segmented()),
            ("unscored", self._make.response(unscored="conformance")),
        ):
            group = self._make.valid()
            group.responses[0].CopyFrom(response)
            acks = await self._submit([_request(0, group, lease_id)])
            self._report.check(rule, _outcomes(acks) == {0: pb.OUTCOME_ACCEPTED}, f"acks: {acks}")

    async def _rejected(self, lease_id: str) -> None:
        """Sends a bad group between two good ones, for each of several faults."""
        bad = {
            "group_id_malformed": self._make.valid(group_id="1"),
            "tokens_empty": self._make.valid(prompt_tokens=b""),
            "group_size": self._make.valid(responses=[]),
            "token_out_of_vocabulary": self._make.valid(prompt_tokens=self._make.unknown_token()),
            "temperature": self._make.valid(temperature=0.0),
        }
        if (routed := self._make.foreign_experts()) is not None:
            bad["routing_shape"] = self._make.valid()
            bad["routing_shape"].responses[0].CopyFrom(routed)
        requests = [_request(number, group, lease_id) for number, group in enumerate(bad.values())]
        acks, error = await self._fleet.submit([*requests, _request(99, self._make.valid(), lease_id)])
        self._count(acks)
        by_sequence = {ack.sequence: ack for ack in acks}
        for number, reason in enumerate(bad):
            ack = by_sequence.get(number)
            told = ack is not None and ack.outcome == pb.OUTCOME_REJECTED and ack.reason == reason
            self._report.check("rejected", told and bool(ack and ack.field and ack.value), f"{reason}: {ack}")
        last = by_sequence.get(99)
        alive = error is None and last is not None and last.outcome == pb.OUTCOME_ACCEPTED
        self._report.check("stream_lives", alive, f"error {error}, the good group's ack: {last}")

    async def _refused_streams(self) -> None:
        _, error = await self._fleet.submit([_request(0, self._make.too_large(), "")])
        code = None if error is None else error.code()
        delays = [key for key, _ in (error.trailing_metadata() or ())] if error is not None else []
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and "retry-after-ms" not in delays
        self._report.check("too_large", refused, f"status {code}, metadata {delays}")
        acks, error = await self._fleet.submit([_request(0, self._make.valid(), "")], grpc.Compression.Gzip)
        self._count(acks)
        self._report.check("compression", error is not None, f"a compressed message was taken: {acks}")

    async def _submit(self, requests: Sequence[pb.SubmitRequest]) -> list[pb.Ack]:
        acks, error = await self._fleet.submit(requests)
        self._count(acks)
        self._report.check("half_close", error is None, f"{error}")
        return acks

    def _count(self, acks: Sequence[pb.Ack]) -> None:
        self._sent.update(pb.Outcome.Name(ack.outcome) for ack in acks)


async def _ledger(fleet: ScriptedFleet, report: Report, before: pb.Ledger, sent: Counter[str]) -> None:
    after = (await fleet.call("GetLedger", pb.GetLedgerRequest())).ledger
    for outcome in ("accepted", "duplicate", "rejected", "retried"):
        name = {"retried": "OUTCOME_RETRY"}.get(outcome, f"OUTCOME_{outcome.upper()}")
        counted = getattr(after, outcome) - getattr(before, outcome)
        fault = f"{outcome}: {counted} more, where {sent[name]} acks said so (another process of this fleet?)"
        report.check("ledger", counted == sent[name], fault)
    received = after.accepted + after.duplicate + after.rejected + after.retried
    gone = after.trained + after.expired + after.quarantined + after.lost + after.queued + after.in_flight
    balanced = after.received == received and after.accepted == gone and after.lost == 0
    report.check("ledger", balanced, f"it does not balance: {after}")


def _request(sequence: int, group: pb.Group, lease_id: str) -> pb.SubmitRequest:
    return pb.SubmitRequest(sequence=sequence, group=group, lease_id=lease_id)


def _outcomes(acks: Sequence[pb.Ack]) -> dict[int, int]:
    return {ack.sequence: ack.outcome for ack in acks}

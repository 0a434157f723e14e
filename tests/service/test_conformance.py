"""The conformance kit tells fleets and gateways that obey the contract from those that break one of its rules."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc.aio

from learner.config import LimitsConfig
from learner.conformance.against_fleet import FleetCheck, check_fleet
from learner.conformance.against_gateway import check_gateway
from learner.conformance.report import Report
from leeway.v1 import rollout_pb2 as pb
from leeway.v1 import rollout_pb2_grpc
from tests.service.fleet import TOKENS, VOCABULARY, Fleet, GatewayProcess, valid_group
from tests.tools.refuse import missing, needs

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "conformance-secret"
NODE = shutil.which("node")
TYPESCRIPT = ROOT / "examples/fleet-typescript"
_PAUSE_S = 0.05  # before a fleet that gets nowhere tries again: without it a few of them use up a core


async def checked(fleet: Callable[[str], Coroutine[Any, Any, Any]], **changes: Any) -> Report:
    """Plays the script to a fleet, which is given the gateway's address."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    limits = LimitsConfig(vocab_size=VOCABULARY)
    check = FleetCheck("127.0.0.1:0", TOKEN, limits, **changes)
    playing = asyncio.create_task(check_fleet(check, address.set_result))
    living = asyncio.create_task(fleet(await address))
    try:
        return await playing
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


async def run_program(*command: str) -> str:
    """Runs a program to its end and returns what it printed on standard error."""
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    try:
        return (await process.communicate())[1].decode()
    finally:
        if process.returncode is None:
            process.kill()


def broken(report: Report) -> set[str]:
    """Names of the rules that a report calls broken."""
    return {rule.name for rule in report.rules if rule.state == "broken"}


async def test_the_example_fleet_in_python_obeys_every_rule():
    program = str(ROOT / "examples/fleet-python/fleet.py")
    report = await checked(lambda address: run_program(sys.executable, program, address, TOKEN))
    assert {rule.state for rule in report.rules} == {"ok"}, "\n".join(report.lines())


@needs(missing("node"))
@needs(None if (TYPESCRIPT / "fleet.js").exists() else "examples/fleet-typescript is not built: make examples")
async def test_the_example_fleet_in_typescript_obeys_every_rule():
    program = [str(NODE), str(TYPESCRIPT / "fleet.js")]
    report = await checked(lambda address: run_program(*program, address, TOKEN, str(ROOT / "proto")))
    assert {rule.state for rule in report.rules} == {"ok"}, "\n".join(report.lines())


async def test_a_gateway_obeys_every_rule(start_gateway: Callable[..., Awaitable[GatewayProcess]]):
    gateway = await start_gateway()
    report = await check_gateway(gateway.address, TOKENS["alpha"])
    assert {rule.state for rule in report.rules} == {"ok"}, "\n".join(report.lines())


class WilfulFleet:
    """A fleet on bare gRPC that breaks one rule, or none.

    Args:
        address: of the gateway.
        habit: the rule that it breaks.
    """

    def __init__(self, address: str, habit: str) -> None:
        self._wire = Fleet(address, "another-secret" if habit == "credentials" else TOKEN)
        self._habit = habit
        self._version = 0
        self._finished = asyncio.Event()

    async def run(self) -> None:
        """Submits groups until the run has finished."""
        watching = asyncio.create_task(self._watch())
        try:
            while not self._finished.is_set():
                lease = await self._lease()
                grant = range(lease.groups + (self._habit == "lease"))
                groups = [self._group() for _ in grant]
                while groups and not self._finished.is_set():
                    groups = await self._deliver(groups, lease.lease_id)
            if self._habit == "finished":
                async with asyncio.timeout(60):
                    await self._linger()
        finally:
            watching.cancel()
            await self._wire.channel.close()

    async def _watch(self) -> None:
        request = pb.WatchPolicyRequest()
        async for response in self._wire.stub.WatchPolicy(request, metadata=self._wire.metadata):
            if response.HasField("policy") and (self._habit != "newer" or not self._version):
                self._version = response.policy.version
            if response.finished:
                self._finished.set()

    async def _lease(self) -> pb.LeaseResponse:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                lease = await self._wire.lease(4, running_version=self._version)
                if (lease.groups and self._version) or self._finished.is_set():
                    return lease
                if self._habit == "lease_pause":
                    await asyncio.gather(*(self._wire.lease(1) for _ in range(6)))
                await asyncio.sleep(lease.retry_after_ms / 1000)
                continue
            await asyncio.sleep(_PAUSE_S)

    def _group(self) -> pb.Group:
        version = self._version + (7 if self._habit == "versions" else 0)
        group = valid_group(version)
        if self._habit == "valid":
            group.prompt_tokens = b""
        return group

    async def _deliver(self, groups: list[pb.Group], lease_id: str) -> list[pb.Group]:
        """Sends groups on one stream; returns those that have to be sent again."""
        left = {group.group_id: group for group in groups}
        pause = 0.0
        call = self._wire.open()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for number, group in enumerate(groups):
                sequence = 0 if self._habit == "sequence" else number
                await call.write(pb.SubmitRequest(sequence=sequence, group=group, lease_id=lease_id))
            await call.done_writing()
            async for response in call:
                for ack in response.acks:
                    pause = max(pause, self._heed(ack, left))
        if self._habit == "same_id":
            for group in left.values():
                group.prompt_id = "another"
        await asyncio.sleep(0 if self._habit == "retry" else max(pause, _PAUSE_S))
        return [] if self._habit == "resend" else list(left.values())

    def _heed(self, ack: pb.Ack, left: dict[str, pb.Group]) -> float:
        if ack.outcome == pb.OUTCOME_RETRY:
            return 0.0 if ack.reason == "run_finished" else ack.retry_after_ms / 1000
        stubborn = {"accepted": pb.OUTCOME_ACCEPTED, "duplicate": pb.OUTCOME_DUPLICATE, "rejected": pb.OUTCOME_REJECTED}
        if stubborn.get(self._habit) != ack.outcome:
            left.pop(ack.group_id, None)
        return 0.0

    async def _linger(self) -> None:
        call = self._wire.open()
        await call.write(pb.SubmitRequest(sequence=1, group=self._group()))
        await call.read()
        await asyncio.Event().wait()


async def test_a_fleet_that_breaks_a_rule_is_found_out():
    """Each of these fleets breaks one rule; the last one breaks none."""
    habits = [
        *("retry", "same_id", "resend", "newer", "finished", "lease", "lease_pause", "versions", "valid", "sequence"),
        *("credentials", "accepted", "duplicate", "rejected", ""),
    ]
    stuck = ("credentials", "duplicate", "rejected", "valid")
    unending = (*stuck, "resend")  # these do not live through the script, however long it is played
    reports = await asyncio.gather(
        *(
            checked(
                lambda address, habit=habit: WilfulFleet(address, habit).run(),
                timeout_s=20 if habit in unending else 60,
                newer_s=4,
                leave_s=2,
            )
            for habit in habits
        )
    )
    beside: dict[str, set[str]] = {  # a fleet that gets nowhere does not live through the script in time
        **{habit: {"valid"} for habit in stuck if habit != "valid"},
        "versions": {"newer"},
    }
    found = dict(zip(habits, map(broken, reports), strict=True))
    assert found.pop("") == set()
    for habit, names in found.items():
        assert names - beside.get(habit, set()) == {habit}, f"{habit}: {names}"


class LaxGateway(rollout_pb2_grpc.RolloutServiceServicer):
    """A gateway that takes everything from everybody and counts nothing."""

    async def DescribeRun(self, request, context) -> pb.DescribeRunResponse:
        return pb.DescribeRunResponse(
            contract_revision=1, vocab_size=10, min_group_size=2, max_group_size=8, max_reward=1.0, min_temperature=0.1,
            max_temperature=2.0, max_prompt_tokens=9, max_response_tokens=9, max_response_context_tokens=99,
            max_message_bytes=1 << 20,
        )  # fmt: skip

    async def Lease(self, request, context) -> pb.LeaseResponse:
        return pb.LeaseResponse(lease_id="one", groups=request.groups + 1)

    async def WatchPolicy(self, request, context):
        yield pb.WatchPolicyResponse(policy=pb.Policy(version=1))
        await asyncio.Event().wait()

    async def GetLedger(self, request, context) -> pb.GetLedgerResponse:
        return pb.GetLedgerResponse(ledger=pb.Ledger(received=1))

    async def ListLedgers(self, request, context) -> pb.ListLedgersResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        raise AssertionError

    async def ReportEvaluation(self, request, context) -> pb.ReportEvaluationResponse:
        return pb.ReportEvaluationResponse()

    async def Submit(self, requests, context):
        async for request in requests:
            yield pb.SubmitResponse(acks=[pb.Ack(sequence=request.sequence, outcome=pb.OUTCOME_ACCEPTED)])


async def test_a_gateway_that_takes_everything_is_found_out():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    rollout_pb2_grpc.add_RolloutServiceServicer_to_server(LaxGateway(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    report = await check_gateway(f"127.0.0.1:{port}", "anything")
    await server.stop(None)
    expected = {"unauthenticated", "role", "lease", "invalid_call", "accepted", "duplicate", "several", "rejected"}
    expected |= {"evaluate"}
    assert broken(report) == expected | {"too_large", "compression", "ledger"}

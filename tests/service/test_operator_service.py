"""Tests of the operators' calls at real gateways: who may call, what they return and change, and how soon others know it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, QueueError, recount
from learner.queue.change_journal import ChangeJournal
from learner.queue.learner_heartbeat import LearnerHeartbeat
from leeway.v1 import operator_pb2 as op
from leeway.v1 import operator_pb2_grpc
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import (
    RUN,
    TOKENS,
    VOCABULARY,
    Fleet,
    GatewayProcess,
    eventually,
    tokens,
    valid_group,
    write_identities,
)
from tests.tools.scrape import Scrape

METHODS = op.DESCRIPTOR.services_by_name["OperatorService"].methods_by_name
SERVICE = "/leeway.v1.OperatorService/"
OPERATOR = "operator-secret"
EOF: Any = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue]


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def identity(token: str, *roles: str) -> dict[str, Any]:
    return {"tokens": [sha256(token)], "roles": list(roles or ["submit"])}


class Operator(Fleet):
    """An operator's connection to a gateway."""

    def __init__(self, address: str, token: str | None = OPERATOR) -> None:
        super().__init__(address, token)
        self.calls = operator_pb2_grpc.OperatorServiceStub(self.channel)

    async def call(self, method: str, request: Any = None) -> Any:
        """Makes a call; of a method with a stream of responses, returns them all."""
        made = getattr(self.calls, method)(request or input_of(method)(), metadata=self.metadata, timeout=30)
        return [one async for one in made] if METHODS[method].server_streaming else await made

    async def change(self, request_id: str, **kind: Any) -> op.RecordedChange:
        """Requests a change."""
        request = op.RequestChangeRequest(request_id=request_id, change=op.Change(**kind))
        return (await self.call("RequestChange", request)).change

    async def refused(self, method: str, request: Any = None) -> tuple[grpc.StatusCode, str]:
        """Makes a call that must fail; returns its status."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request)
        return caught.value.code(), str(caught.value.details())

    async def raw(self, method: str, message: bytes) -> grpc.StatusCode:
        """Makes a call with any bytes; returns the code that it ends with."""
        streams = METHODS[method].server_streaming
        made = (self.channel.unary_stream if streams else self.channel.unary_unary)(SERVICE + method)
        try:
            call: Any = made(message, metadata=self.metadata, timeout=30)
            await (read_out(call) if streams else call)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def input_of(method: str) -> Any:
    return getattr(op, METHODS[method].input_type.name)


async def started(start_gateway: Any, **changes: Any) -> GatewayProcess:
    """Starts a gateway that knows two fleets, and an operator who may also submit."""
    gateway = await start_gateway(status={"listen": "127.0.0.1:0"}, **changes)
    fleets = {name: identity(token) for name, token in TOKENS.items()}
    write_identities(gateway.identities_file, {**fleets, "admin": identity(OPERATOR, "operate")})
    return gateway


def audited(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """What the gateway's log says of changes by operators."""
    lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "operator call"]


async def test_who_may_call_and_what_is_no_message(start_gateway):
    gateway = await started(start_gateway)
    async with (
        Operator(gateway.address) as admin,
        Operator(gateway.address, TOKENS["alpha"]) as fleet,
        Operator(gateway.address, "unknown") as unknown,
        Operator(gateway.address, None) as stranger,
    ):
        for method in METHODS:
            assert (await fleet.refused(method))[0] == grpc.StatusCode.PERMISSION_DENIED
            for nobody in (unknown, stranger):
                # What strangers send is not even parsed.
                assert await nobody.raw(method, b"\xff" * 100) == grpc.StatusCode.UNAUTHENTICATED
            for message in (b"\xff" * 100, bytes(70_000)):
                assert await admin.raw(method, message) == grpc.StatusCode.INVALID_ARGUMENT
    page = await asyncio.to_thread(Scrape, status_of(gateway))
    for method in METHODS:
        counts = {outcome: calls(page, method, outcome) for outcome in ("ok", "denied", "unauthenticated", "invalid")}
        assert counts == {"ok": 0, "denied": 1, "unauthenticated": 2, "invalid": 2}
    assert gateway.child.exit_code() is None
    assert audited(gateway) == []


def calls(page: Scrape, method: str, outcome: str) -> float | None:
    return page.value("leeway_gateway_operator_calls_total", method=method, outcome=outcome)


def status_of(gateway: GatewayProcess) -> str:
    lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    return next(line["status"] for line in lines if line["event"] == "gateway listening")


@contextlib.contextmanager
def learner_of(redis_server: EmbeddedRedis):
    """A learner of the run, begun at step 0."""
    learner = LearnerQueue.open(QueueConfig(url=redis_server.url, run=RUN))
    learner.begin(0, [])
    yield learner
    learner.close()


async def test_status_versions_evaluations_groups_and_ledgers(start_gateway, redis_server):
    gateway = await started(start_gateway, best="sort:greedy:mean@1")
    config = QueueConfig(url=redis_server.url, run=RUN)
    with learner_of(redis_server) as learner:
        async with Operator(gateway.address) as admin, gateway.connect() as fleet:
            status = await admin.call("GetRunStatus")
            assert (status.run, status.state, status.HasField("reported_at")) == (RUN, "no learner", False)
            groups = [valid_group(prompt_id=f"p{number}") for number in range(5)]
            stream = fleet.open()
            for sequence, group in enumerate(groups):
                await stream.write(pb.SubmitRequest(sequence=sequence, group=group))
                await stream.read()
            lease = pb.LeaseRequest(groups=1, worker="w", running_version=0)
            await fleet.stub.Lease(lease, metadata=fleet.metadata, timeout=10)
            taken = await asyncio.to_thread(learner.take, 2, 0, 4)
            learner.publish(pb.Policy(version=1, step=1, epoch=learner.epoch))
            learner.report(1, 1, 2, {"reward": 0.5, "loss": -1.25})
            heartbeat = LearnerHeartbeat(config)
            heartbeat.beat("groups")
            status = await admin.call("GetRunStatus")
            assert (status.state, status.step, status.epoch, status.version) == (
                "waiting for groups", 1, learner.epoch, 1,
            )  # fmt: skip
            assert (status.queued_groups, status.uncommitted_groups, dict(status.streams)) == (3, 2, {"alpha": 1})
            assert dict(status.last_step) == {"reward": 0.5, "loss": -1.25}
            assert abs(status.reported_at.ToSeconds() - time.time()) < 600
            heartbeat.close()
            assert (await admin.call("GetRunStatus")).state == "no learner"
            # What is listed stays in the queue, newest first; what the learner has taken waits no more.
            for request, wanted in (
                (op.ListGroupsRequest(), groups[:1:-1]),
                (op.ListGroupsRequest(limit=1), groups[4:]),
            ):
                listed = await admin.call("ListGroups", request)
                assert [(one.fleet, one.group) for one in listed] == [("alpha", group) for group in wanted]
            assert await admin.call("ListGroups", op.ListGroupsRequest(fleet="beta")) == []
            assert "limit = 1001" in (await admin.refused("ListGroups", op.ListGroupsRequest(limit=1001)))[1]
            assert len(await asyncio.to_thread(learner.take, 5, 1, 4)) == 3
            assert {one.ref.group_id for one in taken} == {group.group_id for group in groups[:2]}
            evaluation = pb.Evaluation(version=1, name="sort", sampling="greedy", samples=1, prompts=4)
            evaluation.metrics["mean@1"].CopyFrom(pb.Interval(value=0.5, low=0.25, high=0.75))
            learner_side = learner._session.client  # an evaluator's report, without an evaluator
            learner_side.hset(f"leeway:{{{RUN}}}:evaluation_best", "sort:greedy:mean@1", "1 0.5")
            text = json_format.MessageToJson(evaluation, preserving_proto_field_name=True, indent=None)
            learner_side.hset(f"leeway:{{{RUN}}}:evaluations", "1:sort:greedy", text)
            versions = (await admin.call("ListVersions")).versions
            assert [(one.policy.version, list(one.run_by), one.best) for one in versions] == [
                (1, [], True), (0, ["alpha/w"], False),
            ]  # fmt: skip
            assert list((await admin.call("ListEvaluations")).evaluations) == [evaluation]
            recounted = await admin.call("RecountLedgers")
            assert (recounted.groups, list(recounted.discrepancies)) == (5, [])
            with pytest.raises(QueueError, match="could not be recounted in time"):
                await asyncio.to_thread(recount, config, deadline=0.0)


async def test_the_quarantine(start_gateway):
    gateway = await started(start_gateway)
    good = valid_group()
    unknown = valid_group()
    unknown.responses[0].tokens = tokens([7, VOCABULARY + 5, 7, 7])
    async with Operator(gateway.address) as admin, gateway.connect() as fleet:
        assert await fleet.outcomes([unknown, valid_group(temperature=-1.0), good]) == [
            "REJECTED",
            "REJECTED",
            "ACCEPTED",
        ]
        hot, token = await admin.call("ListQuarantine")
        assert (hot.reason, token.reason, token.field) == (
            "temperature", "token_out_of_vocabulary", "responses[0].tokens[1]",
        )  # fmt: skip
        assert (token.group, token.fleet, token.group_id) == (unknown, "alpha", unknown.group_id)
        assert len(await admin.call("ListQuarantine", op.ListQuarantineRequest(keys=[hot.key]))) == 1
        assert await admin.call("ListQuarantine", op.ListQuarantineRequest(fleet="beta")) == []
        code, text = await admin.refused("ListQuarantine", op.ListQuarantineRequest(keys=["nobody"]))
        assert (code, "'nobody'" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        replayed = (await admin.call("ReplayQuarantine", op.ReplayQuarantineRequest(keys=[hot.key]))).groups
        assert [(one.key, one.left, one.outcome.startswith("stays: temperature")) for one in replayed] == [
            (hot.key, False, True)
        ]
        assert (await admin.call("PurgeQuarantine", op.PurgeQuarantineRequest(keys=[hot.key]))).deleted == 1
        assert [one.key for one in await admin.call("ListQuarantine")] == [token.key]
    # The run's limits are other ones now: what was rejected by the old ones is taken.
    second = await started(start_gateway, limits={"vocab_size": VOCABULARY + 10})
    async with Operator(second.address) as admin, second.connect() as fleet:
        (replayed,) = (await admin.call("ReplayQuarantine")).groups
        assert (replayed.key, replayed.left, replayed.outcome) == (token.key, True, "accepted")
        assert (await admin.call("PurgeQuarantine")).deleted == 0
        ledger = await fleet.ledger()
        assert (ledger.received, ledger.rejected, ledger.accepted, ledger.queued) == (4, 2, 2, 2)
    # Both gateways write into one log.
    changes = [(line["operator"], line["call"], line["outcome"]) for line in audited(gateway)]
    assert changes == [("admin", f"{what}Quarantine", "ok") for what in ("Replay", "Purge", "Replay", "Purge")]


async def test_an_identity_added_at_one_gateway_is_known_at_another_and_its_revocation_ends_its_streams(
    start_gateway, tmp_path, redis_server
):
    first = await started(start_gateway)
    second = GatewayProcess(tmp_path / "second", redis_server.url)
    try:
        await second.ready()
        await added_and_revoked(first, second)
    finally:
        second.child.kill()


async def added_and_revoked(first: GatewayProcess, second: GatewayProcess) -> None:
    """Adds an identity at the first gateway, uses it at the second, and revokes it."""
    secret, newer = "tokyo-secret", "tokyo-newer"
    async with Operator(first.address) as admin, Operator(second.address, secret) as tokyo:
        assert (await tokyo.raw("GetRunStatus", b"")) == grpc.StatusCode.UNAUTHENTICATED
        request = op.AddIdentityRequest(name="tokyo", token_sha256=sha256(secret), sans=["tokyo.example"])
        added = (await admin.call("AddIdentity", request)).identity
        assert (added.name, list(added.roles), added.tokens, list(added.sans), added.added) == (
            "tokyo", ["submit"], 1, ["tokyo.example"], True,
        )  # fmt: skip
        ledger = await eventually(ledger_or_none(tokyo), bool)
        assert ledger.fleet == "tokyo"
        assert await tokyo.outcomes([valid_group()]) == ["ACCEPTED"]
        await admin.call("AddIdentity", op.AddIdentityRequest(name="tokyo", token_sha256=sha256(newer)))
        listed = {one.name: one for one in (await admin.call("ListIdentities")).identities}
        assert {name: (one.added, one.tokens) for name, one in listed.items()} == {
            "admin": (False, 1), "alpha": (False, 1), "beta": (False, 1), "tokyo": (True, 2),
        }  # fmt: skip
        await refusals(admin)
        stream = tokyo.open(timeout=60)
        await stream.write(pb.SubmitRequest(sequence=0, group=valid_group()))
        assert (await stream.read()).acks[0].outcome == pb.OUTCOME_ACCEPTED
        # The first of two tokens goes: so does the stream that it opened.
        await admin.call("RevokeIdentity", op.RevokeIdentityRequest(name="tokyo", older_tokens=True))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_out(stream)
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.UNAUTHENTICATED, "these credentials have been revoked",
        )  # fmt: skip
        async with Operator(second.address, newer) as renewed:
            assert (await renewed.ledger()).accepted == 2
            await admin.call("RevokeIdentity", op.RevokeIdentityRequest(name="tokyo"))
            await eventually(ledger_or_none(renewed), lambda ledger: ledger is None)
    lines = audited(first)
    assert [(line["call"], line["outcome"]) for line in lines if line["outcome"] == "ok"] == [
        ("AddIdentity", "ok"), ("AddIdentity", "ok"), ("RevokeIdentity", "ok"), ("RevokeIdentity", "ok"),
    ]  # fmt: skip
    assert {line["operator"] for line in lines} == {"admin"}
    for token in (secret, newer):
        assert sha256(token) not in first.log()


async def read_out(stream: Any) -> None:
    """Reads until the other side ends the stream."""
    while await stream.read() is not EOF:
        pass


def ledger_or_none(fleet: Fleet) -> Any:
    async def read() -> pb.Ledger | None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await fleet.ledger()
        return None

    return read


async def refusals(admin: Operator) -> None:
    """What may not be done to identities."""
    refused, invalid = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
    for method, request, code, part in (
        ("AddIdentity", op.AddIdentityRequest(name="alpha", token_sha256="0" * 64), refused, "identities file"),
        ("RevokeIdentity", op.RevokeIdentityRequest(name="admin"), refused, "identities file"),
        (
            "AddIdentity",
            op.AddIdentityRequest(name="x", token_sha256=sha256(TOKENS["alpha"])),
            invalid,
            "belongs to alpha",
        ),
        ("AddIdentity", op.AddIdentityRequest(name="x", sans=["tokyo.example"]), invalid, "belongs to tokyo"),
        ("RevokeIdentity", op.RevokeIdentityRequest(name="nobody"), invalid, "no such identity"),
    ):
        found = await admin.refused(method, request)
        assert (found[0], part in found[1]) == (code, True), found


async def test_changes_are_written_once_and_listed(start_gateway, redis_server):
    gateway = await started(start_gateway)
    async with Operator(gateway.address) as admin:
        pause = await admin.change("one", pause=op.Pause())
        assert (pause.number, pause.operator, pause.state) == (1, "admin", op.CHANGE_STATE_PENDING)
        # Sent again, with whatever in it: the same record.
        assert await admin.change("one", resume=op.Resume()) == pause
        drain = await admin.change("two", drain=op.DrainFleet(fleet="alpha"))
        assert (drain.number, drain.state) == (2, op.CHANGE_STATE_APPLIED)
        name = "gateway.admission.quotas.alpha.groups_per_s"
        quota = await admin.change("three", set=op.SetSettings(values={name: "2.5"}))
        assert (quota.state, dict(quota.new_values)) == (op.CHANGE_STATE_APPLIED, {name: "2.5"})
        with ChangeJournal(QueueConfig(url=redis_server.url, run=RUN)) as journal:
            journal.settle(1, op.CHANGE_STATE_APPLIED, "", 7)
        listed = (await admin.call("ListChanges")).changes
        assert [(one.number, one.request_id, one.step) for one in listed] == [
            (1, "one", 7),
            (2, "two", 0),
            (3, "three", 0),
        ]
        assert [one.number for one in (await admin.call("ListChanges", op.ListChangesRequest(after=2))).changes] == [3]
        (two,) = (await admin.call("ListChanges", op.ListChangesRequest(request_id="two"))).changes
        assert two == drain
        status = await admin.call("GetRunStatus")
        assert (status.state, list(status.drained_fleets), dict(status.changed_settings)) == (
            "no learner, and paused", ["alpha"], {name: "2.5"},
        )  # fmt: skip
        drained = {one.name for one in (await admin.call("ListIdentities")).identities if one.drained}
        assert drained == {"alpha"}
        changes: tuple[tuple[dict[str, Any], str], ...] = (
            ({"set": op.SetSettings(values={"max_staleness": "3"})}, "max_staleness cannot be changed"),
            ({"set": op.SetSettings(values={name: "-1"})}, name.removeprefix("gateway.")),
            ({"drain": op.DrainFleet(fleet="nobody")}, "drain.fleet = 'nobody'"),
            ({"rollback": op.RollBack(version=9)}, "rollback.version = 9"),
            ({"backup": op.BackUp(uri="somewhere")}, "backup.uri = 'somewhere'"),
            ({}, "the change names nothing"),
        )
        for kind, part in changes:
            request = op.RequestChangeRequest(request_id="bad", change=op.Change(**kind))
            code, text = await admin.refused("RequestChange", request)
            assert (code, part in text) == (grpc.StatusCode.INVALID_ARGUMENT, True), text
        code, text = await admin.refused("RequestChange", op.RequestChangeRequest(change=op.Change(pause=op.Pause())))
        assert (code, "request_id = ''" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        secret = op.BackUp(uri="s3://key:hidden@bucket/path?token=hidden")
        await admin.change("four", backup=secret)
    lines = audited(gateway)
    assert [json.loads(line["what"])["request_id"] for line in lines if line["outcome"] == "ok"] == [
        "one", "one", "two", "three", "four",
    ]  # fmt: skip
    assert "hidden" not in gateway.log()
    assert "s3://bucket/path" in gateway.log()


async def test_without_redis_operators_are_told_so(start_gateway, redis_server):
    gateway = await started(start_gateway)
    async with Operator(gateway.address) as admin:
        request = op.AddIdentityRequest(name="other", token_sha256=sha256("other"), roles=["operate"])
        await admin.call("AddIdentity", request)
        redis_server.stop()
        for method in METHODS:
            # Added identities stay what they were, too.
            async with Operator(gateway.address, "other") as other:
                assert await other.refused(method, REQUESTS.get(method)) == (
                    grpc.StatusCode.UNAVAILABLE, "the queue does not answer; try again in a second",
                )  # fmt: skip
    assert gateway.child.exit_code() is None


REQUESTS = {
    "AddIdentity": op.AddIdentityRequest(name="new", token_sha256="0" * 64),
    "RevokeIdentity": op.RevokeIdentityRequest(name="other"),
    "RequestChange": op.RequestChangeRequest(request_id="r", change=op.Change(pause=op.Pause())),
}

"""Tests of identities and limits at a real gateway: roles, revocation, streams, calls and pings."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import grpc
import pytest

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import TOKENS, Fleet, GatewayProcess, eventually, refusal, valid_group, write_identities

EOF: Any = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue]


def identity(token: str, *roles: str) -> dict[str, Any]:
    return {"tokens": [hashlib.sha256(token.encode()).hexdigest()], "roles": list(roles or ["submit"])}


async def ending(call: Any) -> tuple[grpc.StatusCode, str]:
    """Awaits ``call`` and returns the code and the text of the error that it ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


def give_roles(gateway: GatewayProcess) -> None:
    """Writes identities: the two fleets of every test, and an operator."""
    fleets = {name: identity(token) for name, token in TOKENS.items()}
    write_identities(gateway.identities_file, {**fleets, "watch": identity("operator-secret", "operate")})


def ledger_of(fleet: Fleet, name: str) -> Any:
    return fleet.stub.GetLedger(pb.GetLedgerRequest(fleet=name), metadata=fleet.metadata, timeout=10)


async def test_a_fleet_sees_its_own_ledger_and_an_operator_all(start_gateway):
    gateway = await start_gateway()
    give_roles(gateway)
    async with gateway.connect() as alpha, gateway.connect("operator-secret") as operator:
        assert await alpha.outcomes([valid_group(), valid_group()]) == ["ACCEPTED"] * 2
        assert (await ledger_of(alpha, "alpha")).ledger.accepted == 2
        for name in ("beta", "nobody"):
            code, text = await ending(ledger_of(alpha, name))
            assert (code, "'operate'" in text) == (grpc.StatusCode.PERMISSION_DENIED, True)
        assert (await ledger_of(operator, "alpha")).ledger.accepted == 2
        assert (await ledger_of(operator, "beta")).ledger.received == 0
        everything = await operator.stub.ListLedgers(pb.ListLedgersRequest(), metadata=operator.metadata, timeout=10)
        assert [(ledger.fleet, ledger.accepted) for ledger in everything.ledgers] == [("alpha", 2)]
        denied = alpha.stub.ListLedgers(pb.ListLedgersRequest(), metadata=alpha.metadata, timeout=10)
        assert (await ending(denied))[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_an_operator_submits_nothing(start_gateway):
    gateway = await start_gateway()
    give_roles(gateway)
    async with gateway.connect("operator-secret") as operator:
        watch = operator.stub.WatchPolicy(pb.WatchPolicyRequest(), metadata=operator.metadata, timeout=10)
        for call in (lambda: operator.submit([valid_group()]), lambda: operator.lease(1), watch.read):
            error = await refusal(call)
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "watch lacks the role 'submit'" in str(error.details())


async def test_a_revoked_fleets_streams_end_and_nothing_acked_is_lost(start_gateway):
    gateway = await start_gateway()
    async with gateway.connect() as alpha, gateway.connect(TOKENS["beta"]) as beta:
        watch = alpha.stub.WatchPolicy(pb.WatchPolicyRequest(known_version=0), metadata=alpha.metadata, timeout=30)
        stream, others = alpha.open(timeout=30), beta.open(timeout=30)
        acks: list[pb.Ack] = []
        for call in (stream, others):
            await call.write(pb.SubmitRequest(sequence=0, group=valid_group()))
            acks += (await call.read()).acks
        assert [ack.outcome for ack in acks] == [pb.OUTCOME_ACCEPTED] * 2
        write_identities(gateway.identities_file, {"beta": identity(TOKENS["beta"])})
        for code, text in await asyncio.gather(ending(until_broken(stream)), ending(until_broken(watch))):
            assert (code, text) == (grpc.StatusCode.UNAUTHENTICATED, "these credentials have been revoked")
        assert (await ending(alpha.ledger()))[0] == grpc.StatusCode.UNAUTHENTICATED
        await others.write(pb.SubmitRequest(sequence=1, group=valid_group()))
        assert (await others.read()).acks[0].outcome == pb.OUTCOME_ACCEPTED
        give_roles(gateway)
        ledger = await eventually(alpha.ledger, lambda ledger: ledger.accepted)
        assert ledger.accepted == 1


async def until_broken(call: Any) -> None:
    """Reads until the other side ends the stream, which raises."""
    while await call.read() is not EOF:
        pass
    raise AssertionError("the stream ended well")


async def test_stream_limits_name_themselves(start_gateway):
    gateway = await start_gateway(connections={"max_streams": 3, "max_streams_per_fleet": 2})
    async with gateway.connect() as alpha, gateway.connect(TOKENS["beta"]) as beta:
        opened = [alpha.open() for _ in range(2)]
        for sequence, call in enumerate(opened):
            await call.write(pb.SubmitRequest(sequence=sequence, group=valid_group()))
            await call.read()
        error = await refusal(lambda: alpha.submit([valid_group()]))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(error.details()).startswith("max_streams_per_fleet = 2: alpha")
        watch = beta.stub.WatchPolicy(pb.WatchPolicyRequest(), metadata=beta.metadata, timeout=20)
        await watch.read()
        error = await refusal(lambda: beta.submit([valid_group()]))
        assert "max_streams = 3" in str(error.details())
        trailing = list(error.trailing_metadata() or ())
        assert [int(value) > 0 for key, value in trailing if key == "retry-after-ms"] == [True]
        await opened[0].done_writing()
        assert await opened[0].read() is EOF
        assert await beta.outcomes([valid_group()]) == ["ACCEPTED"]


async def test_calls_beyond_the_rate_are_refused_for_that_fleet_only(start_gateway):
    gateway = await start_gateway(connections={"calls_per_s": 0.001})  # one at once, the next in a quarter of an hour
    async with gateway.connect() as alpha, gateway.connect(TOKENS["beta"]) as beta:
        replies = await asyncio.gather(*(alpha.lease(1) for _ in range(30)), return_exceptions=True)
        refused = [reply for reply in replies if isinstance(reply, grpc.aio.AioRpcError)]
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(refused) == 29
        assert (await beta.ledger()).fleet == "beta"
        assert await alpha.outcomes([valid_group()]) == ["ACCEPTED"]


async def test_strangers_connections_keep_nobody_out(start_gateway):
    """Opens more connections than are allowed, without a call on any: they are closed, and a fleet is answered."""
    gateway = await start_gateway(connections={"max_connections": 8, "unused_s": 1.0})
    host, port = gateway.address.split(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    strangers = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    for _, writer in strangers:
        writer.write(preface)

    async def answered() -> bool:
        async with gateway.connect() as fleet:
            try:
                return (await fleet.ledger()).fleet == "alpha"
            except grpc.aio.AioRpcError:
                return False

    await eventually(answered, bool)
    for _, writer in strangers:
        writer.close()


async def test_an_idle_stream_is_closed_and_a_busy_one_is_not(start_gateway):
    gateway = await start_gateway(connections={"idle_s": 2.0})
    async with gateway.connect() as fleet:
        idle, busy = fleet.open(timeout=30), fleet.open(timeout=30)
        watch = fleet.stub.WatchPolicy(pb.WatchPolicyRequest(known_version=0), metadata=fleet.metadata, timeout=30)
        watching = asyncio.ensure_future(watch.read())
        ended = asyncio.ensure_future(ending(until_broken(idle)))
        sequence = 0
        while not ended.done():
            await busy.write(pb.SubmitRequest(sequence=sequence, group=valid_group()))
            assert (await busy.read()).acks[0].outcome == pb.OUTCOME_ACCEPTED
            sequence += 1
        code, text = await ended
        assert (code, text.startswith("idle: nothing was sent for 2 s")) == (grpc.StatusCode.UNAVAILABLE, True)
        await busy.write(pb.SubmitRequest(sequence=sequence, group=valid_group()))
        assert (await busy.read()).acks[0].sequence == sequence
        assert not watching.done()
        watching.cancel()


async def test_a_client_that_pings_too_often_is_sent_away(start_gateway):
    gateway = await start_gateway(connections={"min_ping_s": 5.0})
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with gateway.connect() as polite, Fleet(gateway.address, TOKENS["beta"], options) as rude:
        watches = [
            fleet.stub.WatchPolicy(pb.WatchPolicyRequest(known_version=0), metadata=fleet.metadata, timeout=30)
            for fleet in (polite, rude)
        ]
        waiting = asyncio.ensure_future(watches[0].read())
        code, text = await ending(until_broken(watches[1]))
        assert (code, "too_many_pings" in text.lower().replace(" ", "_")) == (grpc.StatusCode.UNAVAILABLE, True)
        assert not waiting.done()
        waiting.cancel()

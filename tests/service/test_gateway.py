"""A gateway process over real TCP, on a real Redis."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import signal
from typing import Any

import grpc
import pytest
import redis
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from learner.config import QueueConfig
from learner.queue import LearnerQueue, imbalances
from leeway.v1 import rollout_pb2 as pb
from tests.service.conftest import publish
from tests.service.fleet import RUN, TOKENS, eventually, health, refusal, tokens, valid_group, write_tokens


async def test_accepts_once_and_keeps_the_account(start_gateway):
    gateway = await start_gateway()
    groups = [valid_group() for _ in range(20)]
    async with gateway.connect() as fleet:
        assert await fleet.outcomes(groups) == ["ACCEPTED"] * 20
        assert await fleet.outcomes([*groups[:5], valid_group()]) == ["DUPLICATE"] * 5 + ["ACCEPTED"]
        ledger = await fleet.ledger()
    assert (ledger.fleet, ledger.received, ledger.accepted, ledger.duplicate) == ("alpha", 26, 21, 5)
    assert (ledger.queued, ledger.in_flight) == (21, 0)


async def test_rejects_with_field_and_value(start_gateway):
    gateway = await start_gateway()
    cases = [
        ({"tokens": tokens([1, 100])}, "token_out_of_vocabulary", "tokens[1]", "100 (allowed: 0 to 99)"),
        ({"reward": math.nan}, "reward_not_finite", "reward", "nan (allowed: finite)"),
        ({"tokens": b"\x01\x00\x00\x00\x02"}, "tokens_truncated", "tokens", "5 bytes (allowed: "),
    ]
    bad = [valid_group() for _ in cases]
    for group, (changes, *_) in zip(bad, cases, strict=True):
        for name, content in changes.items():
            setattr(group.responses[1], name, content)
    async with gateway.connect() as fleet:
        before, *acks, after = await fleet.submit([valid_group(), *bad, valid_group()])
        ledger = await fleet.ledger()
    assert before.outcome == after.outcome == pb.OUTCOME_ACCEPTED
    for ack, (_, reason, field, value) in zip(acks, cases, strict=True):
        assert (ack.outcome, ack.reason, ack.field) == (pb.OUTCOME_REJECTED, reason, f"responses[1].{field}")
        assert ack.value.startswith(value)
    assert (ledger.received, ledger.accepted) == (5, 2)
    assert dict(ledger.rejected_by_reason) == dict.fromkeys((reason for _, reason, *_ in cases), 1)


async def test_wrong_token_is_unauthenticated(start_gateway):
    gateway = await start_gateway()
    for token in (None, "wrong"):
        async with gateway.connect(token) as fleet:
            for call in (lambda: fleet.submit([valid_group()]), lambda: fleet.lease(1), fleet.ledger):
                error = await refusal(call)
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                assert "token" in str(error.details())


async def test_a_giant_message_ends_its_own_stream_only(start_gateway):
    gateway = await start_gateway()
    async with gateway.connect() as fleet, gateway.connect(TOKENS["beta"]) as other:
        call = other.open()
        await call.write(pb.SubmitRequest(sequence=0, group=valid_group()))
        error = await refusal(lambda: fleet.submit([valid_group(length=1 << 18)]))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await call.write(pb.SubmitRequest(sequence=1, group=valid_group()))
        await call.done_writing()
        acks = [ack async for response in call for ack in response.acks]
        assert [ack.outcome for ack in acks] == [pb.OUTCOME_ACCEPTED] * 2
        assert await fleet.outcomes([valid_group()]) == ["ACCEPTED"]


async def test_groups_of_a_stream_are_queued_in_order(start_gateway, redis_server):
    gateway = await start_gateway(flush_groups=3)
    groups = [valid_group() for _ in range(40)]
    async with gateway.connect() as fleet:
        await fleet.submit(groups)
    learner = LearnerQueue.open(QueueConfig(url=redis_server.url, run=RUN))
    learner.begin(0, [])
    assert [taken.group for taken in learner.take(100, 0, 4)] == groups
    learner.close()


async def test_unacknowledged_groups_of_a_stream_are_bounded(start_gateway, redis_server):
    """Freezes Redis: the gateway stops reading and the client's writes stall; thawed, it acknowledges every group."""
    gateway = await start_gateway(max_unacked=4, queue={"url": redis_server.url, "run": RUN, "timeout_s": 30.0})
    groups = [valid_group(length=60_000) for _ in range(160)]  # 480 KB each: windows, which grow, cannot hide them all
    written = 0
    async with gateway.connect() as fleet:
        call = fleet.open(timeout=200)

        async def write() -> None:
            nonlocal written
            for sequence, group in enumerate(groups):
                await call.write(pb.SubmitRequest(sequence=sequence, group=group))
                written += 1
            await call.done_writing()

        os.kill(redis_server.child.pid, signal.SIGSTOP)
        writing = asyncio.create_task(write())
        try:
            stalled_at = -1
            while stalled_at < max(written, 1):
                stalled_at = written
                await asyncio.wait({writing}, timeout=1.0)
        finally:
            os.kill(redis_server.child.pid, signal.SIGCONT)
        acks = [ack async for response in call for ack in response.acks]
        await writing
    assert 0 < stalled_at < len(groups)
    assert [ack.outcome for ack in acks] == [pb.OUTCOME_ACCEPTED] * len(groups)


async def test_a_full_backlog_turns_the_flood_away_and_nobody_else(start_gateway):
    gateway = await start_gateway(admission={"max_queued_groups": 10}, flush_groups=1)
    async with gateway.connect() as flood, gateway.connect(TOKENS["beta"]) as quiet:
        acks = await flood.submit([valid_group() for _ in range(15)])
        assert [ack.outcome for ack in acks] == [pb.OUTCOME_ACCEPTED] * 10 + [pb.OUTCOME_RETRY] * 5
        assert (acks[-1].reason, acks[-1].retry_after_ms) == ("queue_full", 2000)
        assert await quiet.outcomes([valid_group() for _ in range(6)]) == ["ACCEPTED"] * 5 + ["RETRY"]
        assert await flood.outcomes([valid_group()]) == ["RETRY"]
        # Counts of what was turned away follow with the next flush, at the latest after a second.
        ledger = await eventually(flood.ledger, lambda ledger: ledger.received == 16)
    assert (ledger.accepted, ledger.retried) == (10, 6)
    assert imbalances(ledger) == []


async def test_leases_expire_and_come_back(start_gateway):
    gateway = await start_gateway(admission={"groups_per_step": 4, "max_staleness": 1, "lease_s": 3.0})
    async with gateway.connect() as fleet, gateway.connect(TOKENS["beta"]) as other:
        first = await fleet.lease(6, worker="w")
        assert (first.groups, first.expires_in_ms, len(first.lease_id)) == (6, 3000, 32)
        second = await other.lease(6)
        assert second.groups == 4  # its share: nobody waits for leases of a fleet that has used none yet
        refused = await fleet.lease(1)
        assert (refused.groups, refused.lease_id, refused.retry_after_ms) == (0, "", 200)
        again = await other.lease(1, returned_lease_ids=[second.lease_id])  # returned early
        assert again.groups == 1
        # What nobody returns comes back by itself, piece by piece: what a try got of it is returned by the next.
        unused: list[str] = []

        async def ask_for_all() -> int:
            reply = await fleet.lease(8, returned_lease_ids=unused)
            unused[:] = [reply.lease_id] if reply.groups else []
            return reply.groups

        assert await eventually(ask_for_all, lambda groups: groups == 8) == 8


async def test_held_leases_are_renewed_and_lost_ones_named(start_gateway):
    gateway = await start_gateway(admission={"groups_per_step": 4, "max_staleness": 1})
    async with gateway.connect() as fleet, gateway.connect(TOKENS["beta"]) as other:
        held = (await fleet.lease(2)).lease_id
        reply = await fleet.lease(0, held_lease_ids=[held, "unknown"])
        assert (reply.groups, reply.lease_id, reply.expires_in_ms, reply.retry_after_ms) == (0, "", 60_000, 0)
        assert reply.lost_lease_ids == ["unknown"]
        assert (await other.lease(0, held_lease_ids=[held])).lost_lease_ids == [held]
        both = await fleet.lease(3, held_lease_ids=[held], returned_lease_ids=["x"])
        assert (both.groups, both.lost_lease_ids) == (3, [])
        error = await refusal(lambda: fleet.lease(0))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_accepted_group_uses_up_its_lease(start_gateway):
    gateway = await start_gateway(admission={"groups_per_step": 4, "max_staleness": 0})
    async with gateway.connect() as fleet:
        lease = await fleet.lease(4)
        await fleet.submit([valid_group(), valid_group()], lease_id=lease.lease_id)
        assert (await fleet.lease(4)).groups == 0  # 2 wait, 2 are promised
        assert (await fleet.lease(4, returned_lease_ids=[lease.lease_id])).groups == 2


async def test_a_malformed_lease_request(start_gateway):
    gateway = await start_gateway()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"groups": 0}, "groups = 0: expected at least 1"),
        ({"groups": 1, "worker": "w" * 65}, "at most 64 bytes"),
        ({"groups": 1, "returned_lease_ids": ["x"] * 1025}, "1025 ids"),
    ]
    async with gateway.connect() as fleet:
        for fields, message in cases:
            with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as caught:
                await fleet.lease(**fields)
            assert message in str(caught.value.details())


async def test_watchers_see_the_newest_then_newer_ones(start_gateway, redis_server):
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        fresh = fleet.stub.WatchPolicy(pb.WatchPolicyRequest(), metadata=fleet.metadata, timeout=20)
        assert (await fresh.read()).policy.version == 0
        informed = fleet.stub.WatchPolicy(pb.WatchPolicyRequest(known_version=0), metadata=fleet.metadata, timeout=20)
        waiting = [asyncio.ensure_future(stream.read()) for stream in (fresh, informed)]
        await asyncio.to_thread(publish, redis_server.url, 1, 2, 5)
        seen: dict[int, list[int]] = {0: [], 1: []}
        for index, (stream, read) in enumerate(zip((fresh, informed), waiting, strict=True)):
            response = await read
            while True:
                seen[index].append(response.policy.version)
                if response.policy.version == 5:
                    break
                response = await stream.read()
        policy = response.policy
    for versions in seen.values():
        assert versions == sorted(set(versions))  # some may be skipped, none comes back
        assert versions[-1] == 5
    assert (policy.step, policy.epoch, policy.uri) == (5, 2, "file:///w/5")


async def test_a_version_published_this_moment_is_known(start_gateway, redis_server):
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        (ack,) = await fleet.submit([valid_group(version=7)])
        assert (ack.reason, ack.field) == ("unknown_version", "responses[0].spans[0].version")
        await asyncio.to_thread(publish, redis_server.url, 7)
        assert await fleet.outcomes([valid_group(version=7)]) == ["ACCEPTED"]


async def test_rejected_groups_are_kept_for_the_operator(start_gateway, redis_server):
    gateway = await start_gateway(quarantine_groups=3)
    bad = [valid_group(temperature=-1.0) for _ in range(5)]
    async with gateway.connect() as fleet:
        assert await fleet.outcomes(bad) == ["REJECTED"] * 5
        await fleet.ledger()
    with redis.Redis.from_url(redis_server.url) as raw:
        kept = [json.loads(text) for text in raw.lrange(f"leeway:{{{RUN}}}:quarantine", 0, -1)]  # pyright: ignore
    assert [entry["group_id"] for entry in kept] == [group.group_id for group in reversed(bad[2:])]
    assert (kept[0]["fleet"], kept[0]["reason"], kept[0]["field"]) == ("alpha", "temperature", "temperature")
    assert pb.Group.FromString(base64.b64decode(kept[0]["payload"])) == bad[-1]


async def test_new_tokens_count_at_once(start_gateway):
    gateway = await start_gateway()
    async with gateway.connect("newcomer") as fleet:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await fleet.ledger()
        write_tokens(gateway.identities_file, {"gamma": "newcomer"})
        assert (await fleet.ledger()).fleet == "gamma"


async def test_health_and_reflection_need_no_token(start_gateway):
    gateway = await start_gateway()
    async with gateway.connect(None) as fleet:
        for service in ("", "leeway.v1.RolloutService"):
            await health(fleet.channel, service)
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(fleet.channel)
        listed = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = [service.name async for reply in listed for service in reply.list_services_response.service]
    assert "leeway.v1.RolloutService" in names


async def test_groups_of_one_message_are_acknowledged_one_by_one(start_gateway):
    gateway = await start_gateway()
    bad = valid_group(temperature=0.0)
    groups = [valid_group(), bad, valid_group(), valid_group()]
    requests = [pb.SubmitRequest(sequence=sequence, group=group) for sequence, group in enumerate(groups)]
    requests[2].more.append(requests[3])
    requests[0].more.extend(requests[1:3])
    async with gateway.connect() as fleet:
        call = fleet.open()
        await call.write(requests[0])
        await call.done_writing()
        acks = sorted([ack async for response in call for ack in response.acks], key=lambda ack: ack.sequence)
        assert [ack.group_id for ack in acks] == [group.group_id for group in groups]
        outcomes = [pb.Outcome.Name(ack.outcome) for ack in acks]
        assert outcomes == ["OUTCOME_ACCEPTED", "OUTCOME_REJECTED", "OUTCOME_ACCEPTED", "OUTCOME_ACCEPTED"]
        assert imbalances(await fleet.ledger()) == []

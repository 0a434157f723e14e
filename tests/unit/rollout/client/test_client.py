"""The submit SDK against a scripted gateway: every group gets its final ack, over retries, broken streams and restarts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import grpc
import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import AuthError, SubmitClient, new_group_id
from tests.tools.fleet_peers import TOKEN, ScriptedGateway, until


def group(size: int = 0) -> pb.Group:
    return pb.Group(group_id=new_group_id(), prompt_id="p", prompt_tokens=b"\0" * size)


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    gateway = await ScriptedGateway().start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def client(gateway: ScriptedGateway) -> AsyncIterator[SubmitClient]:
    async with SubmitClient(gateway.address, TOKEN, "unit") as client:
        yield client


async def test_groups_are_acknowledged_in_order_sent(gateway: ScriptedGateway, client: SubmitClient):
    groups = [group() for _ in range(20)]
    acks = await asyncio.gather(*(client.submit(each, "lease") for each in groups))
    assert [ack.group_id for ack in acks] == [each.group_id for each in groups]
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    assert [request.group.group_id for request in gateway.received] == [each.group_id for each in groups]
    assert len({request.sequence for request in gateway.received}) == 20
    assert {request.lease_id for request in gateway.received} == {"lease"}
    assert gateway.streams == 1


@pytest.mark.parametrize("outcome", [pb.OUTCOME_DUPLICATE, pb.OUTCOME_REJECTED])
async def test_final_outcomes_are_returned_and_not_sent_again(
    gateway: ScriptedGateway, client: SubmitClient, outcome: pb.Outcome
):
    gateway.decide = lambda _: pb.Ack(outcome=outcome, reason="r", field="f", value="v")
    ack = await client.submit(group())
    assert (ack.outcome, ack.reason, ack.field, ack.value) == (outcome, "r", "f", "v")
    assert len(gateway.received) == 1


async def test_retry_is_obeyed_with_the_gateways_delay_and_a_new_sequence(
    gateway: ScriptedGateway, client: SubmitClient
):
    times = []

    def busy_twice(_: pb.Group) -> pb.Ack:
        times.append(asyncio.get_running_loop().time())
        return pb.Ack(outcome=pb.OUTCOME_RETRY if len(times) < 3 else pb.OUTCOME_ACCEPTED, retry_after_ms=100)

    gateway.decide = busy_twice
    assert (await client.submit(group())).outcome == pb.OUTCOME_ACCEPTED
    assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(times))
    assert len({request.group.group_id for request in gateway.received}) == 1
    assert len({request.sequence for request in gateway.received}) == 3


async def test_a_broken_stream_is_opened_anew_and_only_unacked_groups_go_again(
    gateway: ScriptedGateway, client: SubmitClient
):
    first = group()
    await client.submit(first)
    gateway.break_after = 4
    groups = [group() for _ in range(8)]
    acks = await asyncio.gather(*(client.submit(each) for each in groups))
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    assert gateway.streams == 2
    received = [request.group.group_id for request in gateway.received]
    assert received.count(first.group_id) == 1
    assert set(received) == {each.group_id for each in [first, *groups]}


async def test_a_gateway_that_restarts_gets_what_it_had_not_acknowledged(
    gateway: ScriptedGateway, client: SubmitClient
):
    gateway.decide = lambda _: None
    waiting = asyncio.create_task(client.submit(group()))
    await until(lambda: bool(gateway.received), "group")
    await gateway.stop()
    gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_DUPLICATE)
    await gateway.start()
    assert (await asyncio.wait_for(waiting, 60)).outcome == pb.OUTCOME_DUPLICATE
    assert len({request.group.group_id for request in gateway.received}) == 1


async def test_a_gateway_that_falls_silent_is_left_for_a_new_stream(gateway: ScriptedGateway):
    async with SubmitClient(gateway.address, TOKEN, timeout_s=0.1) as client:  # acks are awaited for thrice as long
        gateway.decide = lambda _: None
        waiting = asyncio.create_task(client.submit(group()))
        await until(lambda: bool(gateway.received), "group")
        gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_ACCEPTED)
        assert (await asyncio.wait_for(waiting, 60)).outcome == pb.OUTCOME_ACCEPTED
        assert gateway.streams >= 2


async def test_groups_in_flight_are_bounded(gateway: ScriptedGateway):
    gateway.decide = lambda _: None
    async with SubmitClient(gateway.address, TOKEN, in_flight=3) as client:
        tasks = [asyncio.create_task(client.submit(group())) for _ in range(10)]
        await until(lambda: gateway.unacked == 3, "three groups")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(tasks[3]), 0.2)
        assert gateway.unacked == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_group_over_the_own_limit_is_rejected_here(gateway: ScriptedGateway):
    async with SubmitClient(gateway.address, TOKEN, max_message_bytes=4096) as client:
        ack = await client.submit(group(4096))
        assert (ack.outcome, ack.reason) == (pb.OUTCOME_REJECTED, "message_too_large")
        assert "allowed 4096" in ack.value
        assert gateway.received == []


async def test_a_group_over_the_gateways_limit_is_rejected_and_the_others_arrive():
    gateway = await ScriptedGateway().start(max_receive_message_length=4096)
    async with SubmitClient(gateway.address, TOKEN) as client:
        acks = await asyncio.gather(*(client.submit(group(size)) for size in (10, 5000, 20)))
    await gateway.stop()
    outcomes = [ack.outcome for ack in acks]
    assert outcomes == [pb.OUTCOME_ACCEPTED, pb.OUTCOME_REJECTED, pb.OUTCOME_ACCEPTED]
    assert acks[1].reason == "message_too_large"


async def test_groups_that_wait_travel_together(gateway: ScriptedGateway, client: SubmitClient):
    acks = await asyncio.gather(*(client.submit(group(1000)) for _ in range(20)))
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    assert max(len(request.more) for request in gateway.received) > 0


async def test_groups_too_large_together_go_one_by_one():
    gateway = await ScriptedGateway().start(max_receive_message_length=4096)
    async with SubmitClient(gateway.address, TOKEN) as client:
        acks = await asyncio.gather(*(client.submit(group(1000)) for _ in range(20)))
    await gateway.stop()
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    assert all(not request.more for request in gateway.received)


async def test_a_wrong_token_is_fatal_everywhere(gateway: ScriptedGateway):
    async with SubmitClient(gateway.address, "wrong") as client:
        for _ in range(2):
            with pytest.raises(AuthError, match="refuses the credentials: unknown token"):
                await client.submit(group())
        with pytest.raises(AuthError):
            await client.lease(1)
        with pytest.raises(AuthError):
            await client.get_ledger()
        with pytest.raises(AuthError):
            await anext(client.watch_policy())


async def test_leases_carry_the_running_version_and_returned_leases(gateway: ScriptedGateway, client: SubmitClient):
    gateway.grant = 3
    assert (await client.lease(8)).groups == 3
    assert (await client.lease(2, running_version=0, returned=["lease-1"])).groups == 2
    first, second = gateway.leases
    assert (first.worker, first.HasField("running_version"), first.groups) == ("unit", False, 8)
    assert (second.HasField("running_version"), second.running_version) == (True, 0)
    assert list(second.returned_lease_ids) == ["lease-1"]
    assert (await client.get_ledger()).fleet == "unit"


async def test_a_lease_waits_for_a_gateway_that_is_away(gateway: ScriptedGateway, client: SubmitClient):
    await gateway.stop()
    waiting = asyncio.create_task(client.lease(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.3)
    await gateway.start()
    assert (await asyncio.wait_for(waiting, 60)).groups == 1


async def test_policies_are_watched_over_a_restart_without_repetition(gateway: ScriptedGateway, client: SubmitClient):
    gateway.publish(pb.Policy(version=0))
    watch = client.watch_policy()
    assert (await anext(watch)).version == 0
    gateway.publish(pb.Policy(version=1))
    assert (await anext(watch)).version == 1
    await gateway.stop()
    following = asyncio.ensure_future(anext(watch))
    gateway.policies = [pb.Policy(version=1), pb.Policy(version=4)]
    await gateway.start()
    assert (await asyncio.wait_for(following, 60)).version == 4
    assert gateway.known[-1] == 1
    await watch.aclose()


async def test_a_watch_ends_with_the_run(gateway: ScriptedGateway, client: SubmitClient):
    gateway.publish(pb.Policy(version=2))
    watch = client.watch_policy()
    assert (await anext(watch)).version == 2
    assert not client.finished
    gateway.finish()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(watch), 60)
    assert client.finished
    gateway.publish(pb.Policy(version=3))
    assert [policy.version async for policy in client.watch_policy()] == [3]


async def test_the_run_is_described_over_refusals_and_wrong_credentials_are_an_error(
    gateway: ScriptedGateway, client: SubmitClient
):
    gateway.refusing = [
        (grpc.StatusCode.UNAVAILABLE, ()),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, (("retry-after-ms", "10"),)),
    ]
    assert await client.describe_run() == gateway.run
    assert gateway.described == 3
    async with SubmitClient(gateway.address, "other", "unit") as stranger:
        with pytest.raises(AuthError):
            await stranger.describe_run()

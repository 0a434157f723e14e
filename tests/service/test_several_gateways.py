"""Tests of gateways side by side: ready means that they can append, and rolling restarts lose nothing."""

from __future__ import annotations

import asyncio

import pytest
import redis

from learner.queue import imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from tests.service.fleet import RUN, TOKENS, GatewayProcess, eventually, health, until, valid_group


class Producer:
    """A fleet that submits group after group through the SDK, several at a time, until told to stop."""

    def __init__(self, addresses: str, token: str) -> None:
        self.client = SubmitClient(addresses, token, in_flight=16, timeout_s=2.0)
        self.outcomes: dict[str, int] = {}
        self._stop = asyncio.Event()
        self._lanes = [asyncio.create_task(self._produce()) for _ in range(8)]

    async def _produce(self) -> None:
        while not self._stop.is_set():
            group = valid_group(length=50)
            self.outcomes[group.group_id] = (await self.client.submit(group)).outcome

    async def finish(self) -> None:
        """Stops making groups, and waits until every one that was begun has its ack."""
        self._stop.set()
        await asyncio.wait_for(asyncio.gather(*self._lanes), 60)
        await self.client.close()


async def restarted(old: GatewayProcess, start_gateway) -> GatewayProcess:
    """Starts another gateway on the address of one that has ended; returns it once it serves."""
    old.child.terminate()
    await until(lambda: old.child.exit_code() is not None)
    assert (old.child.exit_code(), '"clean": true' in old.log()) == (0, True), old.log()
    new = await start_gateway(listen=old.address)
    async with new.connect() as fleet:
        await health(fleet.channel)
    return new


async def test_a_rolling_restart_loses_and_doubles_nothing(start_gateway, redis_server):
    gateways = [await start_gateway(), await start_gateway()]
    addresses = ",".join(gateway.address for gateway in gateways)
    producers = [Producer(addresses, token) for token in TOKENS.values()]
    for number in (0, 1, 0):
        seen = [len(producer.outcomes) for producer in producers]
        gateways[number] = await restarted(gateways[number], start_gateway)
        await until(
            lambda seen=seen: all(len(one.outcomes) > before + 50 for one, before in zip(producers, seen, strict=True))
        )
    await asyncio.gather(*(producer.finish() for producer in producers))
    for producer in producers:
        assert set(producer.outcomes.values()) <= {pb.OUTCOME_ACCEPTED, pb.OUTCOME_DUPLICATE}
    ledgers = await asyncio.to_thread(read_ledgers, redis_server.url, RUN)
    assert [violation for ledger in ledgers for violation in imbalances(ledger)] == []
    assert [ledger.accepted for ledger in ledgers] == [len(producer.outcomes) for producer in producers]


async def test_a_client_moves_on_from_a_killed_gateway(start_gateway):
    gateways = [await start_gateway(), await start_gateway()]
    async with SubmitClient(",".join(gateway.address for gateway in gateways), TOKENS["alpha"], timeout_s=2.0) as fleet:
        for victim in gateways:
            assert (await asyncio.wait_for(fleet.submit(valid_group()), 60)).outcome == pb.OUTCOME_ACCEPTED
            assert (await asyncio.wait_for(fleet.get_ledger(), 60)).fleet == "alpha"
            if victim is gateways[0]:
                victim.child.kill()
        assert (await fleet.get_ledger()).accepted == 2


@pytest.mark.parametrize("trouble", ["memory", "replica"])
async def test_ready_means_able_to_append(start_gateway, redis_server, trouble: str):
    gateways = [await start_gateway(), await start_gateway()]
    with redis.Redis.from_url(redis_server.url) as raw:
        for gateway in gateways:
            async with gateway.connect() as fleet:
                await health(fleet.channel)
        if trouble == "memory":
            raw.config_set("maxmemory", 1)
        else:
            raw.replicaof("127.0.0.1", 1)  # answers everything, takes no write
        for gateway in gateways:
            async with gateway.connect() as fleet:
                await health(fleet.channel, status="NOT_SERVING")
                assert await fleet.outcomes([valid_group()]) == ["RETRY"]
        if trouble == "memory":
            raw.config_set("maxmemory", 0)
        else:
            raw.replicaof("NO", "ONE")
        for gateway in gateways:
            async with gateway.connect() as fleet:
                await health(fleet.channel)
                await eventually(lambda fleet=fleet: fleet.outcomes([valid_group()]), lambda got: got == ["ACCEPTED"])

"""Tests of the gateway as a process: it starts, drains, is killed, and survives failures of Redis."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from learner.queue import EmbeddedRedis, imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from tests.service.conftest import publish
from tests.service.fleet import RUN, Fleet, GatewayProcess, eventually, health, until, valid_group
from tests.service.test_probes import status_address
from tests.tools.scrape import Scrape


class Stream:
    """A stream that submits one group after the other until it breaks, and records which were acknowledged."""

    def __init__(self, fleet: Fleet) -> None:
        self.call = fleet.open(timeout=120)
        self.sent: list[pb.Group] = []
        self.acks: list[pb.Ack] = []
        self.code: grpc.StatusCode | None = None

    async def run(self) -> None:
        """Submits groups until the gateway ends the stream."""
        writing = asyncio.create_task(self._write())
        try:
            async for response in self.call:
                self.acks += response.acks
        except grpc.aio.AioRpcError as error:
            self.code = error.code()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self) -> None:
        for sequence in itertools.count():
            group = valid_group(length=50)
            self.sent.append(group)
            await self.call.write(pb.SubmitRequest(sequence=sequence, group=group))

    def unacked(self) -> list[pb.Group]:
        """Groups that were sent and not acknowledged, which a fleet must send again."""
        acked = {ack.sequence for ack in self.acks}
        return [group for sequence, group in enumerate(self.sent) if sequence not in acked]


async def collect(call: Any, acks: list[pb.Ack]) -> None:
    """Reads acks until the stream ends, which raises."""
    while True:
        acks += (await call.read()).acks


def unacked_bytes(gateway: GatewayProcess) -> float:
    """Bytes of groups that the gateway has read from fleet alpha and not acknowledged."""
    return Scrape(status_address(gateway)).value("leeway_gateway_unacked_bytes", fleet="alpha") or 0.0


def account(url: str) -> pb.Ledger:
    """Reads the only fleet's ledger, after checking that it balances."""
    (ledger,) = read_ledgers(url, RUN)
    assert imbalances(ledger) == []
    return ledger


async def test_sigterm_drains_what_was_read_and_leaves_the_rest(start_gateway, redis_server):
    queue = {"url": redis_server.url, "run": RUN, "timeout_s": 60.0}
    gateway = await start_gateway(max_unacked=8, drain_s=40.0, queue=queue, status={"listen": "127.0.0.1:0"})
    async with gateway.connect() as fleet:
        await health(fleet.channel)
        watch = fleet.stub.WatchPolicy(pb.WatchPolicyRequest(known_version=0), metadata=fleet.metadata, timeout=60)
        watching = asyncio.ensure_future(watch.read())
        call = fleet.open(timeout=120)
        await call.write(pb.SubmitRequest(sequence=0, group=valid_group()))
        acks: list[pb.Ack] = list((await call.read()).acks)
        os.kill(redis_server.child.pid, signal.SIGSTOP)
        try:
            for sequence in range(1, 30):
                await call.write(pb.SubmitRequest(sequence=sequence, group=valid_group()))
            # Only what has been read keeps a draining gateway; what is still on its way does not.
            await eventually(lambda: asyncio.to_thread(unacked_bytes, gateway), lambda held: held > 0)
            gateway.child.terminate()
            await health(fleet.channel, status="NOT_SERVING")
            with pytest.raises(grpc.aio.AioRpcError, match="draining"):
                await fleet.lease(1)
        finally:
            os.kill(redis_server.child.pid, signal.SIGCONT)
        with pytest.raises(grpc.aio.AioRpcError, match="draining") as caught:
            await collect(call, acks)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError, match="draining"):
            await watching
    await until(lambda: gateway.child.exit_code() is not None)
    assert (gateway.child.exit_code(), '"clean": true' in gateway.log()) == (0, True), gateway.log()
    assert [ack.sequence for ack in acks] == list(range(len(acks)))
    assert 1 <= len(acks) <= 1 + 8  # never more than agreed, of the 29 that were on their way
    assert {ack.outcome for ack in acks} <= {pb.OUTCOME_ACCEPTED, pb.OUTCOME_RETRY}
    # Whatever the gateway took it has acknowledged: nothing happened in silence.
    assert account(redis_server.url).received == len(acks)


async def test_sigterm_under_load_loses_and_doubles_nothing(start_gateway, redis_server):
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        streams = [Stream(fleet) for _ in range(3)]
        running = [asyncio.create_task(stream.run()) for stream in streams]
        await until(lambda: all(len(stream.acks) >= 50 for stream in streams))
        gateway.child.terminate()
        await asyncio.wait_for(asyncio.gather(*running), 60)
    await until(lambda: gateway.child.exit_code() is not None)
    assert gateway.child.exit_code() == 0, gateway.log()
    # grpc.aio's client says INTERNAL when a write of its own meets the end of the stream.
    assert {stream.code for stream in streams} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    successor = await start_gateway()
    async with successor.connect() as fleet:
        again = [outcome for stream in streams for outcome in await fleet.outcomes(stream.unacked())]
    assert set(again) <= {"ACCEPTED", "DUPLICATE"}
    ledger = account(redis_server.url)
    assert ledger.accepted == sum(len(stream.sent) for stream in streams)
    assert ledger.duplicate == again.count("DUPLICATE")


async def test_a_drain_is_bounded_when_redis_hangs(start_gateway, redis_server):
    gateway = await start_gateway(drain_s=1.0, queue={"url": redis_server.url, "run": RUN, "timeout_s": 60.0})
    async with gateway.connect() as fleet:
        await fleet.submit([valid_group()])
        os.kill(redis_server.child.pid, signal.SIGSTOP)
        try:
            stream = Stream(fleet)
            running = asyncio.create_task(stream.run())
            await until(lambda: len(stream.sent) > 10)
            for _ in range(3):  # answers that come after the groups were read: there is something to drain
                await health(fleet.channel)
            gateway.child.terminate()
            await asyncio.wait_for(running, 60)
            await until(lambda: gateway.child.exit_code() is not None)
        finally:
            os.kill(redis_server.child.pid, signal.SIGCONT)
    assert stream.acks == []  # unknown state: the fleet sends all again
    assert gateway.child.exit_code() == 0, gateway.log()
    assert '"clean": false' in gateway.log()


async def test_a_killed_gateway_loses_and_doubles_nothing(start_gateway, redis_server):
    first = await start_gateway()
    async with first.connect() as fleet:
        stream = Stream(fleet)
        running = asyncio.create_task(stream.run())
        await until(lambda: len(stream.acks) >= 300)
        first.child.kill()
        await asyncio.wait_for(running, 60)
        assert stream.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    second = await start_gateway(listen=first.address)
    async with second.connect() as fleet:
        again = await fleet.outcomes(stream.unacked())
    assert set(again) <= {"ACCEPTED", "DUPLICATE"}
    ledger = account(redis_server.url)
    assert ledger.accepted == len(stream.sent)
    assert ledger.duplicate == again.count("DUPLICATE")
    with redis.Redis.from_url(redis_server.url) as raw:
        entries: Any = raw.xrange(f"leeway:{{{RUN}}}:stream:alpha")
    queued = [fields[b"id"].decode() for _, fields in entries]
    assert len(queued) == len(set(queued)) == ledger.accepted


async def test_an_outage_of_redis_and_its_end(start_gateway, redis_server):
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        await health(fleet.channel)
        assert await fleet.outcomes([valid_group()]) == ["ACCEPTED"]
        redis_server.child.kill()
        groups = [valid_group() for _ in range(5)] + [valid_group(temperature=-1.0)]
        acks = await fleet.submit(groups)
        assert [ack.outcome for ack in acks] == [pb.OUTCOME_RETRY] * 5 + [pb.OUTCOME_REJECTED]
        assert (acks[0].reason, acks[0].retry_after_ms) == ("queue_unavailable", 1000)
        await health(fleet.channel, status="NOT_SERVING")
        for call in (fleet.lease(1), fleet.ledger()):
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await call
        # An unknown version cannot be looked up now: that is no reason to reject.
        assert await fleet.outcomes([valid_group(version=99)]) == ["RETRY"]
        server = redis_server.restart()
        try:
            await health(fleet.channel)
            await eventually(lambda: fleet.outcomes(groups[:5]), lambda outcomes: "RETRY" not in outcomes)
            # What happened meanwhile is in the account.
            ledger = await eventually(fleet.ledger, lambda ledger: ledger.rejected == 1)
            assert (ledger.accepted, imbalances(ledger)) == (6, [])
            assert ledger.retried >= 6
        finally:
            await asyncio.to_thread(server.stop)


async def test_redis_out_of_memory(start_gateway, redis_server):
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        with redis.Redis.from_url(redis_server.url) as raw:
            raw.config_set("maxmemory", 1)
            (ack,) = await fleet.submit([valid_group()])
            assert (ack.outcome, ack.reason) == (pb.OUTCOME_RETRY, "queue_memory_full")
            assert (await fleet.lease(1)).groups == 0
            raw.config_set("maxmemory", 0)
        assert await fleet.outcomes([valid_group()]) == ["ACCEPTED"]
        ledger = await eventually(fleet.ledger, lambda ledger: ledger.retried == 1)
        assert (ledger.received, ledger.accepted) == (2, 1)


async def test_it_starts_without_redis_and_finds_it_later(tmp_path: Path):
    server = EmbeddedRedis.start(tmp_path / "redis")
    await asyncio.to_thread(publish, server.url, 0)
    server.stop()
    gateway = await GatewayProcess(tmp_path / "gateway", server.url).ready()
    try:
        async with gateway.connect() as fleet:
            await health(fleet.channel, status="NOT_SERVING")
            assert await fleet.outcomes([valid_group()]) == ["RETRY"]
            server = server.restart()
            await health(fleet.channel)
            await eventually(lambda: fleet.outcomes([valid_group()]), lambda outcomes: outcomes == ["ACCEPTED"])
    finally:
        gateway.child.kill()
        server.stop()


async def test_two_gateways_share_one_account(start_gateway, redis_server):
    gateways = [await start_gateway(), await start_gateway()]
    groups = [valid_group() for _ in range(50)]
    async with gateways[0].connect() as one, gateways[1].connect() as two:
        outcomes = await asyncio.gather(one.outcomes(groups), two.outcomes(groups))
        assert (await one.ledger()) == (await two.ledger())
    for pair in zip(*outcomes, strict=True):
        assert sorted(pair) == ["ACCEPTED", "DUPLICATE"]
    assert account(redis_server.url).accepted == 50


async def test_the_gateway_dies_with_its_parent(tmp_path: Path, start_gateway):
    first = await start_gateway()
    first.child.terminate()  # right after its start: it ends all the same
    await until(lambda: first.child.exit_code() is not None)
    launcher = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-m', 'learner.gateway', {str(tmp_path / 'gateway/gateway.json')!r}],"
        " env={**os.environ, 'LEEWAY_CHILD': '1'}, stderr=subprocess.PIPE)\n"
        "while b'gateway listening' not in child.stderr.readline(): pass\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", launcher, stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(parent.communicate(), 60)
    await until(lambda: not _alive(int(output)))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

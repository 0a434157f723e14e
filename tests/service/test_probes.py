"""What a gateway's probes say, with a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from learner.queue import EmbeddedRedis
from runtime.certificates import expiry
from tests.service.certificates import Authority
from tests.service.fleet import GatewayProcess, eventually, valid_group
from tests.tools.scrape import Scrape, probe

Start = Callable[..., Awaitable[GatewayProcess]]


def status_address(gateway: GatewayProcess) -> str:
    """Reads the address of the gateway's status endpoint from its log."""
    lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    return next(line["status"] for line in lines if line["event"] == "gateway listening")


async def get(address: str, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(probe, address, path)


async def test_ready_follows_redis_and_the_drain_while_alive_stays(start_gateway: Start, redis_server: EmbeddedRedis):
    gateway = await start_gateway(status={"listen": "127.0.0.1:0"}, drain_s=5.0)
    address = status_address(gateway)
    await eventually(lambda: get(address, "/readyz"), lambda reply: reply == (200, "ok\n"))
    redis_server.child.process.send_signal(signal.SIGSTOP)
    frozen = await eventually(lambda: get(address, "/readyz"), lambda reply: reply[0] == 503)
    assert "Redis" in frozen[1]
    assert await get(address, "/healthz") == (200, "ok\n")
    redis_server.child.process.send_signal(signal.SIGCONT)
    await eventually(lambda: get(address, "/readyz"), lambda reply: reply == (200, "ok\n"))
    async with gateway.connect() as fleet:
        stub: Any = health_pb2_grpc.HealthStub(fleet.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())  # a call that goes on: the drain gives it half a second
        await watch.read()
        gateway.child.terminate()
        await eventually(lambda: get(address, "/readyz"), lambda reply: reply == (503, "draining\n"))


async def test_a_status_address_in_use_ends_the_gateway_with_a_line_that_says_so(start_gateway: Start, tmp_path: Path):
    first = await start_gateway(status={"listen": "127.0.0.1:0"})
    taken = status_address(first)
    second = GatewayProcess(tmp_path / "second", "redis://127.0.0.1:1/0", status={"listen": taken})
    await eventually(lambda: asyncio.to_thread(second.child.exit_code), lambda code: code is not None)
    assert second.child.exit_code() == 2
    assert f"status.listen = {taken}: cannot be bound: Address already in use" in second.log()


async def test_what_fleets_do_is_counted_by_fleet_outcome_and_reason(start_gateway: Start):
    gateway = await start_gateway(status={"listen": "127.0.0.1:0"})
    address = status_address(gateway)
    before = await asyncio.to_thread(Scrape, address)
    assert before.value("leeway_gateway_groups_total", fleet="beta", outcome="rejected") == 0
    assert before.value("leeway_gateway_fleet_heard_timestamp_seconds", fleet="alpha") is None
    group, wrong = valid_group(), valid_group(temperature=0.0)
    async with gateway.connect() as fleet, gateway.connect("nobody's") as stranger:
        assert await fleet.outcomes([group, group, wrong]) == ["ACCEPTED", "DUPLICATE", "REJECTED"]
        await fleet.lease(5)
        await fleet.lease(1000)
        with pytest.raises(grpc.aio.AioRpcError):
            await stranger.lease(1)

    def seen(page: Scrape) -> bool:
        return page.value("leeway_gateway_ledger_groups", fleet="alpha", entry="received") == 3

    await eventually(lambda: asyncio.to_thread(Scrape, address), seen)
    page = await asyncio.to_thread(Scrape, address)  # what was set together is all there
    outcomes = {"accepted": 1, "duplicate": 1, "rejected": 1, "retry": 0}
    for outcome, count in outcomes.items():
        assert page.value("leeway_gateway_groups_total", fleet="alpha", outcome=outcome) == count
    labels = {"fleet": "alpha", "outcome": "rejected", "reason": "temperature"}
    assert page.value("leeway_gateway_refused_groups_total", **labels) == 1
    assert page.value("leeway_gateway_payload_bytes_total", fleet="alpha") == len(group.SerializeToString())
    assert page.value("leeway_gateway_ack_seconds_count") == 3
    assert page.value("leeway_gateway_capacity_groups") == 80
    assert page.value("leeway_gateway_leased_groups_total", fleet="alpha") == 79  # one waits already
    assert page.value("leeway_gateway_auth_failures_total") == 1
    assert page.value("leeway_gateway_queue_groups", fleet="alpha") == 1
    assert page.value("leeway_gateway_ledger_violations", fleet="alpha") == 0
    assert page.value("leeway_gateway_ready") == 1
    assert abs(time.time() - (page.value("leeway_gateway_fleet_heard_timestamp_seconds", fleet="alpha") or 0)) < 60
    assert abs(time.time() - (page.value("leeway_gateway_redis_write_timestamp_seconds") or 0)) < 60
    assert (page.value("leeway_gateway_redis_memory_used_bytes") or 0) > 1e5
    assert page.value("leeway_gateway_redis_evicts") == 0


def test_a_certificate_s_end_is_read_from_its_file(tmp_path: Path):
    certificate = Authority(tmp_path).issue("gateway", "localhost").certificate
    assert 86_000 < expiry(certificate) - time.time() <= 86_400
    (tmp_path / "half").write_bytes(certificate.read_bytes()[:100])
    assert expiry(tmp_path / "half") == 0
    assert expiry(tmp_path / "missing") == 0

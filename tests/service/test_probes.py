"""What a gateway's probes say, with a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from learner.queue import EmbeddedRedis
from tests.service.fleet import GatewayProcess, eventually

Start = Callable[..., Awaitable[GatewayProcess]]


def status_address(gateway: GatewayProcess) -> str:
    """Where the gateway's status endpoint listens, as its log says."""
    lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    return next(line["status"] for line in lines if line["event"] == "gateway listening")


async def get(address: str, path: str) -> tuple[int, str]:
    def read() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(read)


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


async def test_a_status_address_in_use_ends_the_gateway_with_a_line_that_says_so(start_gateway: Start, tmp_path):
    first = await start_gateway(status={"listen": "127.0.0.1:0"})
    taken = status_address(first)
    second = GatewayProcess(tmp_path / "second", "redis://127.0.0.1:1/0", status={"listen": taken})
    await eventually(lambda: asyncio.to_thread(second.child.exit_code), lambda code: code is not None)
    assert second.child.exit_code() == 2
    assert f"status.listen = {taken}: cannot be bound: Address already in use" in second.log()

"""What a gateway holds in memory while Redis is stalled: at most its budget of bytes, however many streams are open."""

from __future__ import annotations

import asyncio
import os
import signal

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, TOKENS, Fleet, eventually, valid_group
from tests.service.test_probes import status_address
from tests.tools.scrape import Scrape

_LENGTH = 30_000  # tokens of a response: 240 KB a group, so that no flow-control window hides many
_STREAMS, _GROUPS = 8, 12


class _Flood:
    """Streams of one fleet that submit as fast as the gateway reads."""

    def __init__(self, fleet: Fleet) -> None:
        self.written = 0
        self.acks: list[pb.Ack] = []
        self.tasks = [asyncio.create_task(self._run(fleet)) for _ in range(_STREAMS)]

    async def _run(self, fleet: Fleet) -> None:
        call = fleet.open(timeout=120)

        async def write() -> None:
            for sequence in range(_GROUPS):
                await call.write(pb.SubmitRequest(sequence=sequence, group=valid_group(length=_LENGTH)))
                self.written += 1
            await call.done_writing()

        writing = asyncio.create_task(write())
        self.acks += [ack async for response in call for ack in response.acks]
        await writing


async def test_a_stalled_redis_fills_the_budget_and_no_more(start_gateway, redis_server):
    size = len(pb.SubmitRequest(sequence=1, group=valid_group(length=_LENGTH)).SerializeToString())
    per_fleet, total = 4 * size, 6 * size
    gateway = await start_gateway(
        max_unacked_bytes=total, max_unacked_bytes_per_fleet=per_fleet, status={"listen": "127.0.0.1:0"},
        queue={"url": redis_server.url, "run": RUN, "timeout_s": 60.0},
    )  # fmt: skip
    held: list[dict[str, float]] = []

    def scrape() -> dict[str, float]:
        metrics = Scrape(status_address(gateway))
        values = {name: metrics.value("leeway_gateway_unacked_bytes", fleet=name) or 0.0 for name in TOKENS}
        held.append(values)
        return values

    async with gateway.connect() as alpha, gateway.connect(TOKENS["beta"]) as beta:
        await alpha.submit([valid_group()])
        os.kill(redis_server.child.pid, signal.SIGSTOP)
        try:
            floods = [_Flood(alpha), _Flood(beta)]
            # Full: no other message of this size fits. What is still on its way, or in gRPC's windows, must not be taken.
            await eventually(lambda: asyncio.to_thread(scrape), lambda values: sum(values.values()) > total - size)
            sent = -1
            while sent < sum(flood.written for flood in floods):
                sent = sum(flood.written for flood in floods)
                await asyncio.wait(floods[0].tasks, timeout=1.0)
                await asyncio.to_thread(scrape)
            assert sent > 12  # twice the budget
        finally:
            os.kill(redis_server.child.pid, signal.SIGCONT)
        await asyncio.wait_for(asyncio.gather(*floods[0].tasks, *floods[1].tasks), 100)
        outcomes = [ack.outcome for flood in floods for ack in flood.acks]
        assert outcomes == [pb.OUTCOME_ACCEPTED] * (2 * _STREAMS * _GROUPS)
    assert max(sum(values.values()) for values in held) <= total
    assert max(max(values.values()) for values in held) <= per_fleet
    await eventually(lambda: asyncio.to_thread(scrape), lambda values: set(values.values()) == {0.0})

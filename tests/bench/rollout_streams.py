"""`python -m tests.bench.rollout_streams [ROUNDS]`: responses of uneven lengths: bare SGLang, the pool, and in batches.

One real server on the CPU with a model of 5M weights, so that the engine and not Python fills its core; 32 responses under
way in each of three ways: bare requests of one response each, the worker's pool streaming them, and batches of 16, two under
way, each of which ends with its longest response. Lengths are drawn from an exponential distribution, the same for all.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from rollout.config import EngineConfig, WorkerConfig
from rollout.data.demo_model import DemoShape, write_model
from rollout.engine.pool import EnginePool
from rollout.engine.sampling import Sampling
from rollout.engine.server_process import Server
from rollout.versions.verifier import Version
from tests.tools.engine_pools import Observed
from tests.tools.fleet_peers import until

PORT, UNDER_WAY, BATCH, RESPONSES = 31_940, 32, 16, 96
SHAPE = DemoShape(layers=4, hidden=256, ffn=1024, heads=4, kv_heads=2, head_dim=64, max_positions=512)
LONGEST, MEAN = 200, 48


def lengths() -> list[int]:
    draw = random.Random(0)
    return [min(LONGEST, max(8, round(draw.expovariate(1 / MEAN)))) for _ in range(RESPONSES)]


def prompt() -> list[int]:
    return [14, *random.choices(range(10), k=6), 11]


def parameters(length: int) -> dict[str, Any]:
    return {"temperature": 1.0, "max_new_tokens": length}


async def in_lanes(lanes: int, work: Sequence[Any], call: Callable[[Any], Awaitable[int]]) -> float:
    """Does the work with so many pieces of it under way. Returns tokens/s."""
    queue, tokens = iter(work), 0

    async def lane() -> None:
        nonlocal tokens
        for piece in queue:
            arrived = await call(piece)
            tokens += arrived

    started = time.monotonic()
    await asyncio.gather(*(lane() for _ in range(lanes)))
    return tokens / (time.monotonic() - started)


class Ways:
    """The three ways to the same responses, on one server."""

    def __init__(self, url: str, session: aiohttp.ClientSession, pool: EnginePool) -> None:
        self._url = f"{url}/generate"
        self._session = session
        self._pool = pool
        self.cpu_s = 0.0  # of this process, per 1,000 tokens, the last time that the pool was used

    async def bare(self) -> float:
        async def call(length: int) -> int:
            return await self._tokens({"input_ids": prompt(), "sampling_params": parameters(length)})

        return await in_lanes(UNDER_WAY, lengths(), call)

    async def pool(self) -> float:
        async def call(length: int) -> int:
            return len((await self._pool.generate_one(prompt(), Sampling(1.0, length, ()))).tokens)

        before = time.process_time()
        result = await in_lanes(UNDER_WAY, lengths(), call)
        self.cpu_s = (time.process_time() - before) / sum(lengths()) * 1000
        return result

    async def batches(self) -> float:
        async def call(batch: Sequence[int]) -> int:
            return await self._tokens(
                {"input_ids": [prompt() for _ in batch], "sampling_params": [parameters(length) for length in batch]}
            )

        return await in_lanes(
            UNDER_WAY // BATCH, [lengths()[start : start + BATCH] for start in range(0, RESPONSES, BATCH)], call
        )

    async def _tokens(self, body: dict[str, Any]) -> int:
        async with self._session.post(self._url, json=body) as response:
            answer = await response.json()
        return sum(len(item["output_ids"]) for item in (answer if isinstance(answer, list) else [answer]))


async def compare(ways: Ways, rounds: int) -> None:
    rates: dict[str, list[float]] = {"bare": [], "pool": [], "batches": []}
    cpu: list[float] = []
    await ways.bare()
    for _ in range(rounds):
        for name, found in rates.items():
            found.append(await getattr(ways, name)())
        cpu.append(ways.cpu_s)
        print("  " + ", ".join(f"{name} {found[-1]:.0f}" for name, found in rates.items()), flush=True)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    ratios = [pool / bare for pool, bare in zip(rates["pool"], rates["bare"], strict=True)]
    print(
        f"{sum(lengths())} tokens in {RESPONSES} responses, {UNDER_WAY} under way; tokens/s: bare {middle['bare']:.0f}, "
        f"pool {middle['pool']:.0f} ({statistics.median(ratios):.3f} of bare, {statistics.median(cpu):.3f} s CPU per 1,000 "
        f"tokens), batches of {BATCH} {middle['batches']:.0f}; load {os.getloadavg()[0]:.1f}"
    )


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        weights = write_model(directory / "model", 0, SHAPE)
        for file in ("config.json", "generation_config.json"):  # no end token: lengths are as drawn
            config = json.loads((directory / "model" / file).read_text())
            (directory / "model" / file).write_text(json.dumps(config | {"eos_token_id": None}))
        (directory / "model/manifest.json").write_text("{}")
        server = Server(
            EngineConfig(base_port=PORT, start_timeout_s=600), 0, directory / "model", directory / "engine.log"
        )
        places = dict.fromkeys(("model", "state_dir", "log_dir"), directory / "model")
        settings = {"gateway": "127.0.0.1:1", "allowed_uris": [directory.as_uri()], "engine": {"urls": [server.url]}}
        pool_config = WorkerConfig.parse({**settings, **places}, source="bench")
        limit = aiohttp.ClientTimeout(total=600)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, connector=aiohttp.TCPConnector(limit=0)) as session,
                EnginePool.open(pool_config, 16, Observed()) as pool,
            ):
                await server.wait_until_up(session)
                running = asyncio.create_task(pool.run())
                await pool.load(Version(1, directory / "model"))
                await until(lambda: pool.serving() == 1, "engine")
                print(f"{weights / 1e6:.0f}M weights; tokens/s in turn", flush=True)
                await compare(Ways(server.url, session, pool), rounds)
                running.cancel()
        finally:
            server.kill()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))

"""`python -m tests.bench.rollout_engine [SECONDS]`: compares the rollout worker with bare SGLang, and refit modes.

One real server with the demo's model on the CPU; 16 prompts x 8 responses, 7 new tokens. Bare is the same batched request
sent again and again. The worker is a process of its own with a gateway that grants and accepts everything. Both are run
in turn, several times, because other work on the machine changes speed from one second to the next.
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
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from rollout.config import EngineConfig
from rollout.data.demo_model import write_model
from rollout.engine.prompt_limits import PromptLimits
from rollout.engine.sampling import Sampling
from rollout.engine.server_process import Server
from rollout.engine.sglang import Engine
from rollout.engine.weights import RefitMode
from runtime.children import Child
from tests.tools.fleet_peers import TOKEN, ScriptedGateway, until
from tests.tools.published import publish

PROMPTS, RESPONSES, PORT = 16, 8, 31_900
SAMPLING = Sampling(temperature=1.0, max_new_tokens=7, stop_ids=(12,))
_ROUNDS = 3
REFIT_EVERY_S = 0.35  # the demo publishes once a step


def batch() -> list[list[int]]:
    prompts = [[14, *random.choices(range(10), k=6), 11] for _ in range(PROMPTS)]
    return [prompt for prompt in prompts for _ in range(RESPONSES)]


async def bare(session: aiohttp.ClientSession, url: str, seconds: float, requests: int) -> tuple[float, float]:
    """Measures (responses/s, tokens/s) of plain requests, ``requests`` of them under way at once."""
    counts = [0, 0]
    end = time.monotonic() + seconds
    parameters = {"temperature": 1.0, "max_new_tokens": 7, "stop_token_ids": [12]}

    async def lane() -> None:
        while time.monotonic() < end:
            body = {"input_ids": batch(), "sampling_params": parameters}
            async with session.post(f"{url}/generate", json=body) as response:
                answer = await response.json()
            counts[0] += len(answer)
            counts[1] += sum(len(item["output_ids"]) for item in answer)

    started = time.monotonic()
    await asyncio.gather(*(lane() for _ in range(requests)))
    elapsed = time.monotonic() - started
    return counts[0] / elapsed, counts[1] / elapsed


class WorkerUnderTest:
    """A worker process on the given server."""

    def __init__(self, directory: Path, gateway: ScriptedGateway, url: str, requests: int) -> None:
        home = Path(tempfile.mkdtemp(dir=directory))
        values = {
            "gateway": gateway.address, "token_file": str(directory / "token"), "model": str(directory / "model"),
            "state_dir": str(home / "state"), "log_dir": str(directory),
            "allowed_uris": [directory.absolute().as_uri()],
            "groups_per_request": PROMPTS, "requests": requests, "engine": {"urls": [url]},
            "sampling": {"responses": RESPONSES, "max_new_tokens": 7},
        }  # fmt: skip
        path = home / "worker.json"
        path.write_text(json.dumps(values))
        self._metrics = home / "metrics/worker-0.jsonl"
        self.child = Child("worker", [sys.executable, "-m", "rollout", str(path)], directory / "worker.log", os.environ)

    def progress(self) -> dict[str, Any] | None:
        if not self._metrics.exists():
            return None
        rows = [json.loads(line) for line in self._metrics.read_text().split("\n")[:-1]]
        return next((row for row in reversed(rows) if row["kind"] == "progress" and row["groups_generated"]), None)

    async def measure(self, seconds: float) -> tuple[float, float, float]:
        """Measures (responses/s, tokens/s, CPU seconds of the worker per 128 responses)."""
        await until(lambda: self.progress() is not None, "progress", 60)
        first, cpu = self.progress(), sum(psutil.Process(self.child.pid).cpu_times()[:2])
        await asyncio.sleep(seconds)
        last, cpu = self.progress(), sum(psutil.Process(self.child.pid).cpu_times()[:2]) - cpu
        assert first
        assert last
        elapsed = last["time"] - first["time"]
        responses = (last["groups_generated"] - first["groups_generated"]) * RESPONSES
        return (
            responses / elapsed,
            (last["tokens_generated"] - first["tokens_generated"]) / elapsed,
            cpu / responses * 128,
        )


class Refits:
    """Totals of generation with refits every ``REFIT_EVERY_S`` in one mode, over several slices of time."""

    def __init__(self, engine: Engine, weights: list[Path], mode: RefitMode | None, requests: int) -> None:
        self._engine, self._weights, self._requests = engine, weights, requests
        self._mode: RefitMode | None = mode
        self.took: list[float] = []
        self.responses = self.mixed = 0
        self.elapsed = 0.0

    async def run(self, seconds: float) -> None:
        started = time.monotonic()
        end = started + seconds
        await asyncio.gather(*(self._generate(end) for _ in range(self._requests)), self._refit(end))
        self.elapsed += time.monotonic() - started

    async def _generate(self, end: float) -> None:
        while time.monotonic() < end:
            answer = await self._engine.generate(batch(), SAMPLING)
            self.responses += len(answer)
            self.mixed += sum(len(response.spans) > 1 for response in answer)

    async def _refit(self, end: float) -> None:
        while self._mode is not None and time.monotonic() < end:
            number = len(self.took) + 1
            self.took.append(
                await self._engine.weights.refit(number, self._weights[number % len(self._weights)], self._mode)
            )
            await asyncio.sleep(REFIT_EVERY_S)

    def __str__(self) -> str:
        took = sorted(self.took) or [float("nan")]
        return (
            f"requests {self._requests} refit {self._mode or 'none':9} {self.responses / self.elapsed:6.0f} responses/s; "
            f"refit {statistics.median(took):.3f} s median, {took[-1]:.3f} s max ({len(self.took)}); "
            f"mixed {self.mixed / max(self.responses, 1):.3f}"
        )


MODES: tuple[RefitMode | None, ...] = (None, "drain", "retract", "in_place")


async def compare_modes(engine: Engine, weights: list[Path], seconds: float) -> None:
    """Runs the modes in short slices in turn, so that other load on the machine hits all alike."""
    runs = [Refits(engine, weights, mode, requests) for requests in (1, 2) for mode in MODES]
    for _ in range(_ROUNDS):
        for run in runs:
            await run.run(seconds / 2)
    for run in runs:
        print(f"  {run}")


async def compare_paths(server: Server, directory: Path, gateway: ScriptedGateway, seconds: float) -> None:
    """Measures bare requests and the worker in turn on one server."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        for requests in (1, 2):
            rows = []
            for _ in range(_ROUNDS):
                plain = await bare(session, server.url, seconds, requests)
                worker = WorkerUnderTest(directory, gateway, server.url, requests)
                try:
                    rows.append((plain, await worker.measure(seconds)))
                finally:
                    worker.child.kill()
            plain, worked = (statistics.median(row[path][1] for row in rows) for path in (0, 1))
            cpu = statistics.median(row[1][2] for row in rows)
            ratios = " ".join(f"{row[1][1] / row[0][1]:.2f}" for row in rows)
            print(
                f"  requests {requests}: bare {plain:.0f} tokens/s, worker {worked:.0f} tokens/s (ratios {ratios}), "
                f"{cpu * 1000:.1f} ms CPU of the worker per 128 responses; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_model(directory / "model", 0)
        (directory / "token").write_text(TOKEN)
        gateway = await ScriptedGateway().start()
        gateway.grant = PROMPTS
        gateway.publish(publish(directory / "model", directory / "weights", 0))
        weights = [directory / "weights/weight_v000000", directory / "model"]
        server = Server(EngineConfig(base_port=PORT), 0, directory / "model", directory / "engine.log")
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
                started = time.monotonic()
                await server.wait_until_up(session)
                print(f"server up after {time.monotonic() - started:.1f} s; load {os.getloadavg()[0]:.1f}")
                engine = Engine(server.url, session, PromptLimits(vocab_size=16), timeout_s=60)
                print(f"first refit {await engine.weights.refit(0, weights[0], 'drain'):.3f} s")
                await bare(session, server.url, 2, 2)
                print(f"refits every {REFIT_EVERY_S} s", flush=True)
                await compare_modes(engine, weights, seconds)
                await engine.weights.refit(0, weights[0], "drain")
            print("the worker against bare SGLang, in turn", flush=True)
            await compare_paths(server, directory, gateway, seconds)
        finally:
            server.kill()
            await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0))

"""The rollout worker with real SGLang, gateway and Redis: one stack for the module, the tests in the order of its life."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, TakenGroup
from leeway.v1 import rollout_pb2 as pb
from rollout.engine import Engine, Response, Sampling
from rollout.model import write_model
from rollout.tokens import decode_ids
from runtime.children import Child
from tests.service.fleet import TOKENS, GatewayProcess
from tests.unit.published import publish, seal

_START_S = 240  # a server's imports on a busy machine
_OUTSTANDING = 64  # groups that wait until a test takes them

pytestmark = pytest.mark.timeout(600)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Stack:
    """Redis, a gateway and a worker with its own SGLang; the test plays the learner."""

    def __init__(self, directory: Path, redis: EmbeddedRedis, gateway: GatewayProcess) -> None:
        self.directory = directory
        self.redis = redis
        self.gateway = gateway
        self.queue = LearnerQueue.open(QueueConfig(url=redis.url, run="test"))
        self.queue.begin(0, [])
        self.model = directory / "model"
        self.versions = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        write_model(self.model, 0)
        (directory / "token").write_text(TOKENS["alpha"])
        self.worker = self._start_worker()

    def _start_worker(self) -> Child:
        values = {
            "gateway": self.gateway.address,
            "token_file": str(self.directory / "token"),
            "model": str(self.model),
            "state_dir": str(self.directory / "state"),
            "log_dir": str(self.directory / "logs"),
            "groups_per_request": 16,
            "engine": {"base_port": self.port, "start_timeout_s": _START_S},
            "sampling": {"responses": 4, "max_new_tokens": 7},
        }
        path = self.directory / "worker.json"
        path.write_text(json.dumps(values))
        environment = {**os.environ, "LEEWAY_CHILD": "1"}
        return Child("worker", [sys.executable, "-m", "rollout", str(path)], self.directory / "worker.log", environment)

    def weights(self, version: int) -> Path:
        return self.directory / "weights" / f"weight_v{version:06d}"

    def publish(self, damage: Callable[[Path], None] | None = None) -> int:
        """Publishes new random weights; returns the version."""
        version, self.versions = self.versions, self.versions + 1
        source = self.directory / f"source-{version}"
        write_model(source, seed=100 + version)
        policy = publish(source, self.directory / "weights", version)
        if damage is not None:
            damage(self.weights(version))
        self.queue.publish(policy)
        self.queue.report(version, version, 0)
        shutil.rmtree(source)
        return version

    def take(self) -> list[TakenGroup]:
        """All waiting groups, out of the queue, so that the worker makes others."""
        step = max(0, self.versions - 1)
        taken = self.queue.take(10_000, step, 10_000)
        self.queue.commit(step, [group.ref for group in taken])
        return taken

    async def groups(self, of_version: int) -> list[pb.Group]:
        """Groups of a version, as soon as there are some."""
        found: list[pb.Group] = []

        def some() -> bool:
            found.extend(taken.group for taken in self.take() if versions_of(taken.group) == {of_version})
            return bool(found)

        await self.until(some, f"groups of version {of_version}")
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.directory / "metrics/worker-0.jsonl"
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
        return [row for row in rows if row["kind"] == kind]

    def family(self) -> list[psutil.Process]:
        """The server's processes: the guard, the server, and what the server forked."""
        return psutil.Process(self.worker.pid).children(recursive=True)

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = _START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.worker.exit_code() is None, f"the worker ended:\n{self.worker.tail()}"
            assert time.monotonic() < deadline, f"no {what} in {timeout_s:.0f} s:\n{self.worker.tail()}"
            await asyncio.sleep(0.05)

    async def serving(self, version: int) -> None:
        await self.until(
            lambda: any(row["version"] == version for row in self.events("refit")), f"refit to version {version}"
        )


def versions_of(group: pb.Group) -> set[int]:
    return {span.version for response in group.responses for span in response.spans}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis.start(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: EmbeddedRedis) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    gateway = GatewayProcess(
        directory,
        redis.url,
        limits={"vocab_size": 16, "group_size": [4, 4]},
        admission={"groups_per_step": _OUTSTANDING, "max_staleness": 0},
    )
    asyncio.run(gateway.ready())
    stack = Stack(directory, redis, gateway)
    yield stack
    stack.worker.kill()
    gateway.child.kill()
    stack.queue.close()


@pytest.fixture
async def engine(stack: Stack) -> AsyncIterator[Engine]:
    """The test's own connection to the worker's server."""
    async with aiohttp.ClientSession() as session:
        yield Engine(stack.url, session, vocab_size=16, timeout_s=60)


async def test_groups_arrive_in_redis_with_the_version_that_made_them(stack: Stack):
    await stack.until(lambda: any(row["state"] == "stale" for row in stack.events("engine")), "server")
    assert stack.take() == []  # nothing is generated with weights that were never published
    version = stack.publish()
    group = (await stack.groups(of_version=version))[0]
    assert (group.task, group.temperature, len(group.responses)) == ("sort", 1.0, 4)
    prompt = decode_ids(group.prompt_tokens)
    assert (prompt[0], prompt[-1], len(prompt)) == (14, 11, 8)
    answer = [*sorted(prompt[1:-1]), 12]
    for response in group.responses:
        tokens = decode_ids(response.tokens)
        assert 1 <= len(tokens) <= 7
        assert response.reward == float(tokens == answer)
        assert [(span.start, span.end) for span in response.spans] == [(0, len(tokens))]
        ended = tokens[-1] == 12
        assert response.finish_reason == (pb.FINISH_REASON_STOP if ended else pb.FINISH_REASON_LENGTH)
    assert [row["state"] for row in stack.events("engine")] == ["starting", "stale", "serving"]


def hugging_face(directory: Path, prompts: list[list[int]], length: int) -> list[list[int]]:
    """Greedy continuations by transformers, up to the end token."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    results = []
    for prompt in prompts:
        with torch.no_grad():
            out = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=length,
                do_sample=False,
            )
        results.append(out[0, len(prompt) :].tolist())
    return results


async def test_greedy_tokens_equal_hugging_faces_after_a_refit(stack: Stack, engine: Engine):
    prompts = [[14, *digits, 11] for digits in ([3, 1, 4, 1, 5, 9], [2, 7, 1], [0], [9, 9, 8, 8, 7, 7, 6, 6])]
    greedy = Sampling(temperature=0.0, max_new_tokens=24, stop_ids=(12,))
    before, version = stack.publish(), stack.publish()
    await stack.serving(version)
    responses = await engine.generate(prompts, greedy)
    assert [response.tokens for response in responses] == await asyncio.to_thread(
        hugging_face, stack.weights(version), prompts, 24
    )
    assert {span.version for response in responses for span in response.spans} == {version}
    # Not vacuous: the version before answers differently.
    assert [response.tokens for response in responses] != await asyncio.to_thread(
        hugging_face, stack.weights(before), prompts, 24
    )


async def test_spans_show_a_switch_of_versions_within_a_response(stack: Stack, engine: Engine):
    prompts = [[14, *map(int, f"{number:04d}"), 11] for number in range(128)]
    # No end token: every response is under way for as long as the context allows.
    sampling = Sampling(temperature=1.0, max_new_tokens=56, stop_ids=())

    async def mixed() -> list[Response]:
        running = asyncio.create_task(engine.generate(prompts, sampling))
        stack.publish()
        return [response for response in await running if len(response.spans) > 1]

    for _ in range(20):
        responses = await mixed()
        if responses:
            break
    else:
        pytest.fail("twenty refits met no running response")
    for response in responses:
        edges = [0, *(span.end for span in response.spans)]
        assert [span.start for span in response.spans] == edges[:-1]
        assert edges[-1] == len(response.tokens)
        versions = [span.version for span in response.spans]
        assert versions == sorted(set(versions))


async def test_a_damaged_version_is_refused_and_generation_goes_on(stack: Stack):
    def damage(directory: Path) -> None:
        content = bytearray((directory / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (directory / "model.safetensors").write_bytes(content)

    good = stack.versions - 1
    await stack.serving(good)
    damaged = stack.publish(damage)
    await stack.until(lambda: any(row["version"] == damaged for row in stack.events("refused")), "refusal")
    assert "model.safetensors].sha256" in stack.events("refused")[-1]["reason"]
    stack.take()
    assert await stack.groups(of_version=good)
    newer = stack.publish()
    await stack.serving(newer)
    assert await stack.groups(of_version=newer)
    assert damaged not in {row["version"] for row in stack.events("refit")}


async def test_a_foreign_architecture_is_refused(stack: Stack):
    def replace(directory: Path) -> None:
        from rollout.model import Shape

        write_model(directory, 0, Shape(layers=1))

    version = stack.versions
    directory = stack.weights(version)
    write_model(directory, 0)
    replace(directory)
    stack.versions += 1
    stack.queue.publish(seal(directory, version))
    await stack.until(lambda: any(row["version"] == version for row in stack.events("refused")), "refusal")
    assert "config_sha256" in stack.events("refused")[-1]["reason"]


async def test_a_killed_server_is_restarted_and_refitted_before_it_serves(stack: Stack):
    current = stack.publish()
    await stack.serving(current)
    before = len(stack.events("engine"))
    family = stack.family()
    scheduler = next(process for process in family if "scheduler" in process.name() + " ".join(process.cmdline()))
    scheduler.kill()
    await stack.until(lambda: len(stack.events("engine")) >= before + 2, "end of the engine", 60)
    gone, _ = await asyncio.to_thread(psutil.wait_procs, family, 20)
    assert len(gone) == len(family)
    assert [row["state"] for row in stack.events("engine")][before:][:2] == ["dead", "starting"]
    stack.take()
    newer = stack.publish()  # while it is down: what it starts with is no longer current
    await stack.until(lambda: stack.events("engine")[-1]["state"] == "serving", "restarted engine")
    assert [row["version"] for row in stack.events("refit")][-1] == newer
    assert await stack.groups(of_version=newer)


async def test_no_process_outlives_a_killed_worker(stack: Stack):
    family = stack.family()
    assert len(family) >= 3
    os.kill(stack.worker.pid, signal.SIGKILL)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, family, 20)
    assert len(gone) == len(family), f"still there: {alive}"

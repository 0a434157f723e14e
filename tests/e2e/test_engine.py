"""Tests of the rollout worker with real SGLang, gateway and Redis. All share one stack and depend on their order."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.queue import EmbeddedRedis
from leeway.v1 import rollout_pb2 as pb
from rollout.client import decode_ids
from rollout.data.demo_model import write_model
from rollout.engine.adapters import ServedAdapter
from rollout.engine.errors import EngineError, RefusedError
from rollout.engine.parsing import EngineParsers
from rollout.engine.prompt_limits import PromptLimits
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.engine.sglang import Engine
from tests.e2e.stack import ADAPTERS, Stack
from tests.parallel.ranks import run_cases
from tests.service.fleet import GatewayProcess
from tests.tools.adapters import merge
from tests.tools.published import write_manifest

_OUTSTANDING = 64  # groups that wait until a test takes them
PROMPTS = [[14, *digits, 11] for digits in ([3, 1, 4, 1, 5, 9], [2, 7, 1], [0], [9, 9, 8, 8, 7, 7, 6, 6])]
GREEDY = Sampling(temperature=0.0, max_new_tokens=24, stop_ids=(12,))

pytestmark = pytest.mark.timeout(600)


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
        adapters={"rank": ADAPTERS.rank, "targets": list(ADAPTERS.targets)},
    )
    asyncio.run(gateway.ready())
    stack = Stack(directory, redis, gateway)
    yield stack
    stack.worker.kill()
    gateway.child.kill()
    stack.queue.close()


@pytest.fixture
async def engine(stack: Stack) -> AsyncIterator[Engine]:
    """Connects to the worker's server, beside the worker."""
    async with aiohttp.ClientSession() as session:
        yield Engine(stack.url, session, PromptLimits(vocab_size=16), timeout_s=60)


async def test_groups_arrive_in_redis_with_the_version_that_made_them(stack: Stack):
    await stack.until(lambda: any(row["state"] == "stale" for row in stack.events("engine")), "server")
    assert stack.take() == []  # nothing is generated with weights that were never published
    version = stack.publish_adapter()
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


async def test_adapters_change_while_responses_run_and_equal_their_merged_forms(
    stack: Stack, engine: Engine, tmp_path: Path
):
    old = stack.versions - 1
    adapters = {version: ServedAdapter(f"test-{version}", version) for version in (old, old + 1)}
    await engine.adapters.load(adapters[old], stack.weights(old))
    endless = Sampling(temperature=1.0, max_new_tokens=56, stop_ids=())
    running = asyncio.create_task(engine.generate([PROMPTS[0]] * 64, endless))
    new = stack.publish_adapter()
    await stack.groups(of_version=new)  # the worker has loaded it beside the one in use
    await engine.adapters.load(adapters[new], stack.weights(new))
    found = {new: await engine.generate(PROMPTS, GREEDY)}
    assert {span.version for response in await running for span in response.spans} == {old}
    await engine.adapters.load(adapters[old], stack.weights(old))
    found[old] = await engine.generate(PROMPTS, GREEDY)
    for version, responses in found.items():
        merged = full_version(stack, version, tmp_path / str(version))
        assert {span.version for response in responses for span in response.spans} == {version}
        assert [response.tokens for response in responses] == await asyncio.to_thread(hugging_face, merged, PROMPTS, 24)
    assert found[old] != found[new]


def full_version(stack: Stack, version: int, directory: Path) -> Path:
    """Writes what an adapter version yields."""
    shutil.copytree(stack.model, directory)
    adapters = list(load_file(stack.weights(version) / "adapter_model.safetensors").items())
    save_file(merge(stack.model, adapters, ADAPTERS, torch.float32), directory / "model.safetensors", {"format": "pt"})
    return directory


async def test_parsers_of_the_engine_read_what_it_has_never_seen(engine: Engine):
    parsers = EngineParsers(engine.ask)
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    text = 'Well.\n<tool_call>\n{"name": "add", "arguments": {"n": 1}}\n</tool_call>'
    content, calls = await parsers.tool_calls("qwen25", text, [tool])
    assert (content.strip(), [(name, json.loads(arguments)) for name, arguments in calls]) == (
        "Well.",
        [("add", {"n": 1})],
    )
    assert await parsers.tool_calls("qwen25", "Well.", [tool]) == ("Well.", [])
    reasoning, rest = await parsers.reasoning("deepseek-r1", "<think>hm</think>Well.")
    assert (reasoning.strip(), rest.strip()) == ("hm", "Well.")
    with pytest.raises((RefusedError, EngineError)):
        await parsers.tool_calls("no such parser", text, [tool])


def hugging_face(directory: Path, prompts: list[list[int]], length: int) -> list[list[int]]:
    """Generates greedy continuations by transformers, up to the end token."""
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
    before, version = stack.publish(), stack.publish()
    await stack.serving(version)
    responses = await engine.generate(PROMPTS, GREEDY)
    assert [response.tokens for response in responses] == await asyncio.to_thread(
        hugging_face, stack.weights(version), PROMPTS, 24
    )
    assert {span.version for response in responses for span in response.spans} == {version}
    # Not vacuous: the version before answers differently.
    assert [response.tokens for response in responses] != await asyncio.to_thread(
        hugging_face, stack.weights(before), PROMPTS, 24
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


async def test_the_servers_log_probabilities_are_those_the_learner_recomputes(stack: Stack, tmp_path: Path):
    """Gives the learner tokens, spans and published versions only; some responses have two spans."""
    before = stack.publish()
    await stack.serving(before)
    sampled: list[Sampled] = []
    for _ in range(20):
        running = asyncio.create_task(sample(stack.url, temperature=0.8))
        stack.publish()
        sampled += await running
        if sum(len(set(one.versions)) > 1 for one in sampled) > 10:
            break
    else:
        pytest.fail("twenty refits met too few running responses")
    rows = [
        {
            "tokens": [*one.prompt, *one.tokens],
            "generated": [False] * len(one.prompt) + [True] * len(one.tokens),
            "version": [-1] * len(one.prompt) + one.versions,
            "advantage": 1.0,
            "weight": 1.0,
            "temperature": 0.8,
        }
        for one in sampled
    ]
    (tmp_path / "sequences.json").write_text(json.dumps(rows))
    case = {
        "name": "learner", "run": "recompute", "parallel": {}, "clip": 1.0, "model": str(stack.model), "publishes": False,
        "sequences": str(tmp_path / "sequences.json"), "versions": str(stack.directory / "weights"),
        "published": "float32", "objective": {"name": "grpo"}, "behaviour": {"drift_every": 0},
    }  # fmt: skip
    await asyncio.to_thread(run_cases, 1, [case], tmp_path)
    recomputed = json.loads((tmp_path / "learner.0.logp").read_text())
    worst = 0.0
    for number, one in enumerate(sampled):
        places = [place - len(one.prompt) for place, *_ in recomputed[str(number)]]
        assert places == list(range(len(one.tokens)))
        theirs = torch.tensor(one.logp)
        ours = torch.tensor([log_mu for _, _, log_mu in recomputed[str(number)]])
        worst = max(worst, float((theirs - ours).abs().max()))
    assert worst < 1e-3
    # Weights of several versions were at work, some within one response.
    assert len({version for one in sampled for version in one.versions}) > 1


async def test_a_draining_refit_waits_for_health_probes(stack: Stack, engine: Engine):
    """SGLang's health probe generates a token, and does not pass our drain gate."""
    version = stack.publish()
    await stack.serving(version)
    over = False

    async def probe() -> int:
        count = 0
        while not over:
            await engine.require_health(30)
            count += 1
        return count

    probes = [asyncio.create_task(probe()) for _ in range(4)]
    for _ in range(10):
        await engine.weights.refit(version, stack.weights(version), "drain")
    over = True
    assert sum(await asyncio.gather(*probes)) > 0


@dataclass(frozen=True)
class Sampled:
    """A response with the version and log-probability of each token, as the server reports them."""

    prompt: list[int]
    tokens: list[int]
    versions: list[int]
    logp: list[float]


async def sample(url: str, temperature: float) -> list[Sampled]:
    """Samples responses that are as long as the context allows."""
    prompts = [[14, *map(int, f"{number:04d}"), 11] for number in range(0, 6400, 100)]
    parameters = {"temperature": temperature, "max_new_tokens": 56, "ignore_eos": True}
    body = {"input_ids": prompts, "sampling_params": parameters, "return_logprob": True}
    limit = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=limit) as session, session.post(f"{url}/generate", json=body) as answer:
        items = await answer.json()
    found = []
    for prompt, item in zip(prompts, items, strict=True):
        meta, tokens = item["meta_info"], item["output_ids"]
        versions = [int(one["version"]) for one in meta["weight_versions"] for _ in range(one["start"], one["end"])]
        logp = [value for value, *_ in meta["output_token_logprobs"]]
        assert len(versions) == len(tokens) == len(logp)
        found.append(Sampled(prompt, tokens, versions, logp))
    return found


async def test_a_damaged_version_is_refused_and_generation_goes_on(stack: Stack):
    def damage(directory: Path) -> None:
        content = bytearray((directory / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (directory / "model.safetensors").write_bytes(content)

    good = stack.versions - 1
    await stack.serving(good)
    damaged = stack.publish(damage)
    await stack.until(lambda: any(row["version"] == damaged for row in stack.events("refused")), "refusal")
    assert "model.safetensors].digest" in stack.events("refused")[-1]["reason"]
    stack.take()
    assert await stack.groups(of_version=good)
    newer = stack.publish()
    await stack.serving(newer)
    assert await stack.groups(of_version=newer)
    assert damaged not in {row["version"] for row in stack.events("refit")}


async def test_a_foreign_architecture_is_refused(stack: Stack):
    def replace(directory: Path) -> None:
        from rollout.data.demo_model import DemoShape

        write_model(directory, 0, DemoShape(layers=1))

    version = stack.versions
    directory = stack.weights(version)
    write_model(directory, 0)
    replace(directory)
    stack.versions += 1
    stack.queue.publish(write_manifest(directory, version))
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

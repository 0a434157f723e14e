"""Kill -9 of an SGLang server in the middle of many long responses: what has arrived is kept, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from rollout.config import WorkerConfig
from rollout.data.demo_model import DemoShape, write_model
from rollout.engine.lane import RequestLane
from rollout.engine.pool import EnginePool
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.versions.verifier import Version
from tests.tools.engine_pools import Observed
from tests.tools.fleet_peers import until

RESPONSES, TOKENS = 64, 256
_PORT = 31_980
GREEDY = Sampling(temperature=0.0, max_new_tokens=TOKENS, stop_ids=())

pytestmark = pytest.mark.timeout(600)


def write_endless_model(directory: Path, seed: int) -> Path:
    """Writes a model without an end token: every response has all its tokens."""
    write_model(directory, seed, DemoShape(max_positions=512))
    for name in ("config.json", "generation_config.json"):
        config = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(config | {"eos_token_id": None}))
    (directory / "manifest.json").write_text("{}")
    return directory


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[EnginePool]:
    config = WorkerConfig.parse(
        {
            "gateway": "127.0.0.1:1", "model": write_endless_model(tmp_path / "v1", 1), "state_dir": tmp_path,
            "log_dir": tmp_path, "allowed_uris": [tmp_path.as_uri()],
            "engine": {"count": 2, "base_port": _PORT, "arguments": ["--decode-log-interval", "1"]},
        },
        source="test",
    )  # fmt: skip
    async with EnginePool.open(config, 16, Observed()) as pool:
        running = asyncio.create_task(pool.run())
        await pool.load(Version(1, tmp_path / "v1"))
        await until(lambda: pool.serving() == 2, "engines", 180)
        yield pool
        running.cancel()


def server_family(port: int) -> list[psutil.Process]:
    """Returns the processes of the server on a port that this process has started."""
    children = psutil.Process().children(recursive=True)
    return [
        member
        for child in children
        if f"--port {port} " in " ".join(child.cmdline())
        for member in (child, *child.children(recursive=True))
    ]


def generated(log: Path) -> int:
    """Counts the tokens that a server says it has generated: one a request in each prefill and each decode step."""
    counts = re.findall(r"(?:Prefill batch.*?#new-seq|Decode batch.*?#running-req): (\d+)", log.read_text())
    return sum(map(int, counts))


def surprise(directory: Path, prompts: Sequence[Sequence[int]], responses: Sequence[Response], version: int) -> float:
    """Largest amount by which a token's logit, where a version generated it, is below the largest one."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    worst = 0.0
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response.tokens]])).logits[0, len(prompt) - 1 : -1]
        missing = logits.max(-1).values - logits.gather(-1, torch.tensor(response.tokens)[:, None])[:, 0]
        for span in response.spans:
            if span.version == version:
                worst = max(worst, float(missing[span.start : span.end].max()))
    return worst


async def test_a_killed_engines_responses_go_on_from_what_had_arrived(
    tmp_path: Path, pool: EnginePool, monkeypatch: pytest.MonkeyPatch
):
    received: Counter[int] = Counter()
    original = RequestLane.generate_one

    async def counted(
        lane: RequestLane, prompt: Sequence[int], sampling: Sampling, arrived: Callable[..., bool], at_once: bool
    ) -> Response:
        def count(tokens: Sequence[int], version: int | None) -> bool:
            received[lane.index] += len(tokens)
            return arrived(tokens, version)

        return await original(lane, prompt, sampling, count, at_once)

    monkeypatch.setattr(RequestLane, "generate_one", counted)
    prompts = [[14, *map(int, f"{number:04d}"), 11] for number in range(RESPONSES)]
    running = [asyncio.create_task(pool.generate_one(prompt, GREEDY)) for prompt in prompts]
    await until(lambda: received[0] > RESPONSES * TOKENS // 6, "a third of its tokens", 300)
    underway, family = sum(pool.lanes.responses()), server_family(_PORT)
    for process in family:
        process.kill()
    psutil.wait_procs(family, 20)  # without a turn of the event loop: what has been sent is still in the sockets
    made = generated(tmp_path / "worker-0.engine-0.log")
    await until(lambda: pool.serving() == 1, "end of the engine")
    again = made - received[0]
    await pool.load(Version(2, write_endless_model(tmp_path / "v2", 2)))
    responses = await asyncio.wait_for(asyncio.gather(*running), 300)
    needed = RESPONSES * TOKENS
    print(
        f"{underway} responses under way; the killed engine had generated {made} tokens: {again} were generated again, "
        f"{again / needed:.2%} of {needed}; {pool.tokens.continued} responses went on elsewhere, "
        f"{sum(len(one.spans) > 1 for one in responses)} have two versions"
    )
    assert [(len(one.tokens), one.finish) for one in responses] == [(TOKENS, "length")] * RESPONSES
    assert 0 <= again < 0.02 * needed
    assert pool.tokens.received == needed
    assert sum(pool.tokens.discarded.values()) == 0
    assert pool.tokens.continued > 16
    for version in (1, 2):
        assert await asyncio.to_thread(surprise, tmp_path / f"v{version}", prompts, responses, version) < 1e-4
    assert {span.version for one in responses for span in one.spans} == {1, 2}

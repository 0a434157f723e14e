"""Client libraries, unmodified, drive episodes with a tool through the endpoint, against real SGLang.

What is recorded is exactly what the engine answered, and reads as what the client saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from learner.batch.packing import Layout, pack
from learner.batch.sequences import to_sequences
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, TakenGroup, imbalances, ledgers_in
from leeway.v1 import rollout_pb2 as pb
from rollout.client import decode_ids
from rollout.config import WorkerConfig
from rollout.engine.pool import EnginePool
from rollout.engine.response import Response
from rollout.episodes.record import EpisodeRecord
from rollout.main import run_until_signal
from tests.service.fleet import RUN, TOKENS, GatewayProcess, until
from tests.tools.chain_model import TOOL_TABLE, write_chain_model
from tests.tools.foreign_venv import ForeignVenv
from tests.tools.live_endpoint import VERSION, LiveEndpoint, live_endpoint
from tests.tools.published import write_manifest

CLIENTS = Path(__file__).parent / "clients"
ASK: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": NUMBERS}}]
GROUP = 4  # responses of a group
Answered = tuple[tuple[int, ...], tuple[int, ...]]  # prompt and what was generated
_AGENT_S = 120

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveEndpoint]:
    directory = tmp_path_factory.mktemp("live")
    write_chain_model(directory / "model", TOOL_TABLE)
    async with live_endpoint(directory, directory / "model") as live:
        yield live


def require_faithful(live: LiveEndpoint, record: EpisodeRecord, messages: list[dict[str, Any]]) -> None:
    """Requires that an episode of one segment has the engine's own tokens, and the messages that its client saw.

    Args:
        record: of the episode, the last one whose answers the engine has given.
        messages: the assistant's, in the form of OpenAI.
    """
    [segment] = record.segments
    answers = live.answers[-len(messages) :]
    prompt, last = answers[-1]
    assert segment.context + segment.tokens == prompt + last.tokens
    assert segment.context == answers[0][0]
    generated = [segment.tokens[span.start : span.end] for span in segment.spans]
    assert generated == [response.tokens for _, response in answers]
    assert {span.version for span in segment.spans} == {VERSION}
    for (_, response), message in zip(answers, messages, strict=True):
        assert live.tokenizer.text(response.tokens) == _said(message)


def _said(message: dict[str, Any]) -> str:
    """The text of which a client's message has been made."""
    content, calls = message.get("content") or "", message.get("tool_calls") or []
    texts = [
        f'<tool_call>\n{{"name": "{call["function"]["name"]}", '
        f'"arguments": {json.dumps(json.loads(call["function"]["arguments"]))}}}\n</tool_call>'
        for call in calls
    ]
    return "\n".join([content, *texts] if content else texts)


@pytest.mark.parametrize("way", ["tcp", "unix"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_client(live: LiveEndpoint, way: str, stream: bool):
    episode = live.book.open()
    unix = httpx.AsyncHTTPTransport(uds=str(live.endpoint.socket)) if way == "unix" else None
    url = "http://worker/v1" if unix else live.endpoint.url
    seen: list[dict[str, Any]] = []
    messages = list(ASK)
    async with AsyncOpenAI(
        base_url=url, api_key=episode.key, http_client=httpx.AsyncClient(transport=unix), timeout=_AGENT_S
    ) as client:
        while True:
            if stream:
                message = await _streamed(client, messages)
            else:
                made = await client.chat.completions.create(model="any", messages=messages, tools=TOOLS)
                assert made.usage
                prompt, response = live.answers[-1]
                assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (len(prompt), len(response.tokens))
                message = made.choices[0].message.model_dump()
            seen.append(message)
            messages.append(message)
            if not message.get("tool_calls"):
                break
            for call in message["tool_calls"]:
                given = json.loads(call["function"]["arguments"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(given["a"] + given["b"])})
    assert len(seen) == 2
    require_faithful(live, episode.close(), seen)


async def _streamed(client: AsyncOpenAI, messages: list[Any]) -> dict[str, Any]:
    """Asks for an answer in pieces and puts them together."""
    text, calls = "", []
    async for chunk in await client.chat.completions.create(model="any", messages=messages, tools=TOOLS, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        calls += [call.model_dump(exclude={"index"}) for call in delta.tool_calls or ()]
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


async def test_token_ids_continue_a_segment(live: LiveEndpoint):
    episode = live.book.open()
    prompt = live.tokenizer.prompt_ids("<|after_user|>")
    async with AsyncOpenAI(base_url=live.endpoint.url, api_key=episode.key) as client:
        first = await client.completions.create(model="any", prompt=prompt)
        told: list[int] = (first.model_extra or {})["leeway"]["token_ids"]
        further = [*prompt, *told, *live.tokenizer.prompt_ids("<|after_tool|>")]
        second = await client.completions.create(model="any", prompt=further)
    assert [told, (second.model_extra or {})["leeway"]["token_ids"]] == [
        response.tokens for _, response in live.answers[-2:]
    ]
    [segment] = episode.close().segments
    assert segment.context + segment.tokens == [*further, *live.answers[-1][1].tokens]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_anthropic_client(live: LiveEndpoint, stream: bool):
    record, told = await _run(live, "anthropic", "anthropic_agent.py", stream)
    messages = [_as_openai(message) for message in told["seen"]]
    require_faithful(live, record, messages)
    assert [message["stop_reason"] for message in told["seen"]] == ["tool_use", "end_turn"]
    counts = [(message["usage"]["input_tokens"], message["usage"]["output_tokens"]) for message in told["seen"]]
    assert counts == [(len(prompt), len(response.tokens)) for prompt, response in live.answers[-2:]]
    assert told["counted"] == counts[0][0]


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_agents(live: LiveEndpoint, stream: bool):
    record, told = await _run(live, "openai-agents", "openai_agent.py", stream)
    assert [item.get("type") for item in told["items"]] == [
        "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    before, called, result, _ = told["items"]
    given = json.loads(called["arguments"])
    assert result["output"] == str(given["a"] + given["b"])
    call = {"function": {"name": called["name"], "arguments": called["arguments"]}}
    text = "".join(part["text"] for part in before["content"])
    require_faithful(live, record, [{"content": text, "tool_calls": [call]}, {"content": told["final"]}])


async def test_a_history_that_is_compacted_reaches_the_learner_as_two_segments(
    live: LiveEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answered: Counter[Answered] = Counter()
    generate_one = EnginePool.generate_one

    async def counted(pool: EnginePool, prompt: Sequence[int], *arguments: Any, **options: Any) -> Response:
        response = await generate_one(pool, prompt, *arguments, **options)
        answered[(*prompt,), (*response.tokens,)] += 1
        return response

    monkeypatch.setattr(EnginePool, "generate_one", counted)
    async with compacting_groups(live, tmp_path) as taken:
        groups = [one.group for one in taken]
    told = Counter(answer for group in groups for one in group.responses for answer in _answers_in(one))
    assert told.total() == 3 * GROUP * len(groups)
    assert told <= answered
    for group in groups:
        for response in group.responses:
            first, second = response.segments
            read = [live.tokenizer.text(decode_ids(segment.context_tokens)) for segment in response.segments]
            assert ["What is 1 + 1?" in text for text in read] == [True, False]
            assert ["You found" in text for text in read] == [False, True]
            assert [len(first.spans), len(second.spans)] == [2, 1]
            assert {span.version for segment in (first, second) for span in segment.spans} == {VERSION}
    contrasting = [group for group in groups if len({one.reward for one in group.responses}) > 1]
    assert contrasting
    (micro_batch,) = pack(to_sequences(contrasting), Layout(max_tokens=1 << 20)).micro_batches
    lengths = [
        len(segment.context_tokens + segment.tokens) // 4
        for group in contrasting
        for response in group.responses
        for segment in response.segments
    ]
    assert micro_batch.cu_seqlens.diff().tolist() == lengths
    assert micro_batch.segments.tolist() == [2] * GROUP * len(contrasting)
    generated = [token for group in contrasting for one in group.responses for token in _generated(one)]
    assert micro_batch.loss_target.tolist() == generated
    assert micro_batch.version is not None
    assert set(micro_batch.version.tolist()) == {VERSION}


@contextlib.asynccontextmanager
async def compacting_groups(live: LiveEndpoint, directory: Path) -> AsyncIterator[list[TakenGroup]]:
    """Runs a worker of the task ``Compacting`` on the engine, with a gateway, until the learner's queue has had some groups.

    Yields:
        The groups, with contrast in at least one of them; all are committed, and the ledger balances.
    """
    site = live.endpoint.socket.parent
    redis = EmbeddedRedis.start(directory / "redis")
    queue_config = QueueConfig(url=redis.url, run=RUN)
    queue = LearnerQueue.open(queue_config)
    queue.begin(0, [])
    gateway = GatewayProcess(
        directory, redis.url, admission={"groups_per_step": 1, "max_staleness": 1},
        limits={"vocab_size": live.tokenizer.vocab_size, "group_size": [GROUP, GROUP]},
    )  # fmt: skip
    taken: list[TakenGroup] = []

    def take() -> bool:
        """Takes and commits what waits; whether there has been enough."""
        new = queue.take(100, VERSION, 100)
        queue.commit(VERSION, [one.ref for one in new])
        taken.extend(new)
        return any(len({one.reward for one in each.group.responses}) > 1 for each in taken)

    try:
        await gateway.ready()
        queue.publish(write_manifest(site / "weights" / f"weight_v{VERSION:06d}", VERSION))
        queue.report(VERSION, VERSION, 0)
        (directory / "token").write_text(TOKENS["alpha"])
        values = {
            "gateway": gateway.address, "token_file": directory / "token", "model": site / "model",
            "state_dir": directory / "state", "log_dir": directory / "logs", "sampling": {"responses": GROUP},
            "allowed_uris": [(site / "weights").as_uri()], "engine": {"urls": [live.engine_url]},
            "task": {"name": "tests.tools.compacting_task:Compacting", "episodes": 2 * GROUP},
        }  # fmt: skip
        worker = asyncio.create_task(run_until_signal(WorkerConfig.parse(values, source="test")))
        try:
            await until(lambda: worker.done() or take(), _AGENT_S)
            assert not worker.done(), worker.exception()
        finally:
            worker.cancel()
            await asyncio.wait([worker])
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)
        assert gateway.child.exit_code() is None
        take()
        (ledger,) = ledgers_in(queue_config)
        assert imbalances(ledger) == []
        assert (ledger.accepted, ledger.trained, ledger.queued, ledger.in_flight) == (len(taken), len(taken), 0, 0)
        yield taken
    finally:
        gateway.child.kill()
        queue.close()
        redis.stop()


def _answers_in(response: pb.Response) -> Iterator[Answered]:
    """Yields (everything before, what was generated) of each generation that a response says it is made of."""
    for segment in response.segments:
        context, tokens = decode_ids(segment.context_tokens), decode_ids(segment.tokens)
        for span in segment.spans:
            yield (*context, *tokens[: span.start]), (*tokens[span.start : span.end],)


def _generated(response: pb.Response) -> list[int]:
    return [token for _, answer in _answers_in(response) for token in answer]


def _as_openai(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {"function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
        for block in message["content"]
        if block["type"] == "tool_use"
    ]
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    return {"content": text, "tool_calls": calls}


async def _run(live: LiveEndpoint, venv: str, script: str, stream: bool) -> tuple[EpisodeRecord, dict[str, Any]]:
    """Runs an agent in its own virtualenv within an episode; returns the record and what the agent printed."""
    python = ForeignVenv(venv).python
    if python is None:
        pytest.skip(f"the virtualenv of {venv} is not built: make agents")
    episode = live.book.open()
    url = live.endpoint.url
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": url, "OPENAI_API_KEY": episode.key,
        "ANTHROPIC_BASE_URL": url.removesuffix("/v1"), "ANTHROPIC_API_KEY": episode.key,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        python, CLIENTS / script, *(["--stream"] if stream else []), env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), _AGENT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    return episode.close(), json.loads(out.decode().splitlines()[-1])

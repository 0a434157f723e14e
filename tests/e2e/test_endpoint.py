"""Client libraries, unmodified, drive episodes with a tool through the endpoint, against real SGLang.

What is recorded is exactly what the engine answered, and reads as what the client saw.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from rollout.episodes.record import EpisodeRecord
from tests.tools.chain_model import TOOL_TABLE, write_chain_model
from tests.tools.foreign_venv import ForeignVenv
from tests.tools.live_endpoint import VERSION, LiveEndpoint, live_endpoint

CLIENTS = Path(__file__).parent / "clients"
ASK: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": NUMBERS}}]
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

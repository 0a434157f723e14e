"""`python -m tests.bench.endpoint [SECONDS]`: what the endpoint costs at 64 concurrent episodes.

First with an engine that only waits: milliseconds that a call takes beyond the engine's, and CPU of this process. Then with
real SGLang on the CPU and a model of 50M weights, so that the engine fills the cores: tokens/s through the endpoint against
bare /generate with the same conversations, in turn, because other work on the machine changes speed from one second to the
next. Episodes have four turns of 16 tokens. The agents are a process of their own, and ask for their episodes over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from rollout.config import EndpointConfig, EpisodeLimits, SamplingConfig
from rollout.data.demo_model import DemoShape
from rollout.data.tokenizer import Tokenizer
from rollout.endpoint.served_policy import ServedPolicy
from rollout.endpoint.server import Endpoint
from rollout.engine.response import Response, VersionSpan
from rollout.engine.sampling import Sampling
from rollout.episodes.book import EpisodeBook
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.observer import UncountedEpisodes
from rollout.episodes.offers import EpisodeOffer, EpisodeOffers
from rollout.tasks import Prompt
from tests.tools.chain_model import AFTER_USER, TALK_TABLE, write_chain_model
from tests.tools.live_endpoint import live_endpoint
from tests.tools.scripted_book import Counted

EPISODES, TURNS, TOKENS = 64, 4, 16
SHAPE = DemoShape(layers=12, hidden=512, ffn=2048, heads=8, kv_heads=4, head_dim=64)  # 50M parameters
ENGINE_S = 1.0  # what the engine that only waits takes for a call
_ROUNDS = 3
_TOKEN = "secret-of-the-bench"
_ASK = {"role": "user", "content": "Talk."}


@dataclass
class Sums:
    """What agents have measured while all of them talked.

    Attributes:
        calls: calls that ended in that time.
        tokens: generated tokens of these calls.
        seconds: that time.
        median_ms: milliseconds of a call.
        all_calls: those before and after that time too.
    """

    calls: int
    tokens: int
    seconds: float
    median_ms: float
    all_calls: int


class Agents:
    """A process of 64 agents that talk. What is counted begins when each could have made a call, and half the time is over.

    Args:
        url: of the endpoint or engine.
        seconds: that are counted, or more on a slow machine: until there are as many calls as agents.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600), read_bufsize=1 << 20
        )
        self._url, self._seconds = url, seconds
        self._warm = time.monotonic() + seconds / 2
        self._begin = self._end = 0.0
        self._calls_ms: list[float] = []
        self._tokens = self._all_calls = 0

    async def run(self, lane: Callable[[], Awaitable[None]]) -> Sums:
        """Runs one lane per agent, again and again, until the time is over."""

        async def agent(index: int) -> None:
            await asyncio.sleep(index / EPISODES * ENGINE_S)  # agents do not act in step
            while not self._end:
                await lane()

        async with self._session:
            await asyncio.gather(*map(agent, range(EPISODES)))
        median_ms = statistics.median(self._calls_ms)
        return Sums(len(self._calls_ms), self._tokens, self._end - self._begin, median_ms, self._all_calls)

    async def through_the_endpoint(self, stream: bool = False) -> None:
        """Talks in one episode."""
        episode = await self._post("/episodes", {}, _TOKEN)
        messages: list[dict[str, Any]] = [_ASK]
        for _ in range(TURNS):
            if self._end:
                break
            body = {"messages": messages, "max_tokens": TOKENS, "stream": stream}
            started = time.monotonic()
            if stream:
                text, tokens = await self._streamed(body, episode["key"])
            else:
                answer = await self._post("/chat/completions", body, episode["key"])
                text, tokens = answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]
            self._count(started, tokens)
            messages += [{"role": "assistant", "content": text}, _ASK]
        await self._post(f"/episodes/{episode['key']}/reward", {"reward": 1}, episode["key"])

    async def bare(self) -> None:
        """Talks with the engine, with the token ids that the endpoint would send it."""
        context: list[int] = json.loads(os.environ["BENCH_PROMPT"])
        between: list[int] = json.loads(os.environ["BENCH_BETWEEN"])
        parameters = {"temperature": 1.0, "max_new_tokens": TOKENS}
        for _ in range(TURNS):
            if self._end:
                break
            started = time.monotonic()
            answer = await self._post("/generate", {"input_ids": context, "sampling_params": parameters}, "")
            self._count(started, len(answer["output_ids"]))
            context = [*context, *answer["output_ids"], *between]

    def _count(self, started: float, tokens: int) -> None:
        now = time.monotonic()
        self._all_calls += 1
        if not self._begin:
            if now > self._warm and self._all_calls >= EPISODES:
                self._begin = now
        elif not self._end:
            self._calls_ms.append((now - started) * 1000)
            self._tokens += tokens
            if now > self._begin + self._seconds and len(self._calls_ms) >= EPISODES:
                self._end = now

    async def _post(self, path: str, body: Any, key: str) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        while True:
            async with self._session.post(self._url + path, json=body, headers=headers) as response:
                if response.status == 204:
                    continue
                assert response.status == 200, await response.text()
                return await response.json()

    async def _streamed(self, body: Any, key: str) -> tuple[str, int]:
        text, tokens = "", 0
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.post(self._url + "/chat/completions", json=body, headers=headers) as response:
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: {"):
                    chunk = json.loads(line[6:])
                    text += chunk["choices"][0]["delta"].get("content") or ""
                    tokens = len(chunk["leeway"]["token_ids"]) if "leeway" in chunk else tokens
        return text, tokens


async def talk(way: str, url: str, seconds: float, environment: dict[str, str] | None = None) -> Sums:
    """Has a process of agents talk; returns what it has measured."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.endpoint", way, url, str(seconds),
        env={**os.environ, **(environment or {})}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 2 * seconds + 300)
    assert process.returncode == 0
    return Sums(**json.loads(out))


async def offer_for_ever(book: EpisodeBook, offers: EpisodeOffers) -> None:
    """Always has an episode ready for each agent."""

    async def lane() -> None:
        while True:
            episode = book.open()
            await offers.place(EpisodeOffer(episode, Prompt("talk", _ASK["content"])))
            await episode.reward
            episode.close()

    await asyncio.gather(*(lane() for _ in range(EPISODES)))


class WaitingEngine:
    """An engine that waits for a second and says words."""

    def __init__(self, words: list[int]) -> None:
        self._words = words

    async def generate_one(
        self, prompt: Any, sampling: Sampling, affinity: str = "", on_tokens: Any = None
    ) -> Response:
        """Answers with as many tokens as are asked for; streams them in eight pieces."""
        tokens = random.choices(self._words, k=sampling.max_new_tokens)
        for piece in range(8):
            await asyncio.sleep(ENGINE_S / 8)
            if on_tokens is not None:
                on_tokens(tokens[piece * len(tokens) // 8 : (piece + 1) * len(tokens) // 8])
        return Response(tokens, "length", [VersionSpan(0, 0, len(tokens))])


@contextlib.asynccontextmanager
async def serving(
    directory: Path, tokenizer: Tokenizer, generate: Any, chat_format: ChatFormat
) -> AsyncIterator[Endpoint]:
    """Opens an endpoint that has an episode ready for each agent."""
    (directory / "token").write_text(_TOKEN)
    limits, offers = EpisodeLimits(), EpisodeOffers()
    book = EpisodeBook(
        generate, tokenizer, chat_format, Sampling(1.0, TOKENS, tokenizer.eos_ids), limits, UncountedEpisodes()
    )
    served = ServedPolicy(
        book, offers, "policy", tokenizer.prompt_ids, chat_format.count, SamplingConfig(), limits, Counted()
    )
    config = EndpointConfig(remote_token_file=directory / "token")
    async with Endpoint.open(config, served, directory / "bench.sock") as endpoint:
        offering = asyncio.create_task(offer_for_ever(book, offers))
        try:
            yield endpoint
        finally:
            offering.cancel()
            await asyncio.wait([offering])


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    return sum(psutil.Process().cpu_times()[:2])


async def cost_of_a_call(directory: Path, tokenizer: Tokenizer, seconds: float) -> None:
    """Measures what comes on top of an engine that takes a second for every call."""
    words = [tokenizer.single_id(word) for word in TALK_TABLE[AFTER_USER]]
    engine = WaitingEngine(words)
    async with serving(directory, tokenizer, engine.generate_one, ChatFormat(tokenizer)) as endpoint:
        for way in ("endpoint", "stream"):
            before = cpu_s()
            sums = await talk(way, endpoint.url, seconds)
            cpu = cpu_s() - before
            print(
                f"  {'in pieces' if way == 'stream' else 'whole':9}: {sums.median_ms - ENGINE_S * 1000:.1f} ms a call beyond "
                f"the engine's (median of {sums.calls}), {cpu / sums.all_calls / TOKENS * 1000:.3f} CPU s per 1,000 "
                f"tokens, {cpu / sums.all_calls * 1000:.2f} ms CPU a call; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


async def against_bare(directory: Path, model: Path, tokenizer: Tokenizer, seconds: float) -> None:
    """Measures tokens/s of real SGLang, bare and through the endpoint, in turn."""
    chat_format = ChatFormat(tokenizer)
    prompt, between = _prompt_and_between(tokenizer)
    environment = {"BENCH_PROMPT": json.dumps(prompt), "BENCH_BETWEEN": json.dumps(between)}
    async with (
        live_endpoint(directory, model, ["--max-total-tokens", "32768"]) as live,
        serving(directory, tokenizer, live.pool.generate_one, chat_format) as endpoint,
    ):
        rates: dict[str, list[float]] = {"bare": [], "endpoint": [], "stream": []}
        cpus: dict[str, list[float]] = {"bare": [], "endpoint": [], "stream": []}
        for _ in range(_ROUNDS):
            for way, found in rates.items():
                before = cpu_s()
                sums = await talk(way, live.engine_url if way == "bare" else endpoint.url, seconds, environment)
                found.append(sums.tokens / sums.seconds)
                cpus[way].append((cpu_s() - before) / sums.all_calls / TOKENS * 1000)
                print(f"    {way:9} {found[-1]:.0f} tokens/s; load {os.getloadavg()[0]:.1f}", flush=True)
        bare = statistics.median(rates["bare"])
        for way in ("endpoint", "stream"):
            ratios = " ".join(f"{one / two:.2f}" for one, two in zip(rates[way], rates["bare"], strict=True))
            print(
                f"  {'in pieces' if way == 'stream' else 'whole':9}: bare {bare:.0f} tokens/s, through the endpoint "
                f"{statistics.median(rates[way]):.0f} (ratios {ratios}), {statistics.median(cpus[way]):.3f} CPU s per 1,000 "
                f"tokens; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def _prompt_and_between(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of the first prompt, and of what stands between an answer that was cut off and the next."""
    render = tokenizer.chat_template.render
    first = render([_ASK])
    second = render([_ASK, {"role": "assistant", "content": "@"}, _ASK])
    return tokenizer.rendered_ids(first), tokenizer.rendered_ids(second.removeprefix(first).removeprefix("@"))


async def main(seconds: float) -> None:
    """Prints both comparisons."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        parameters = write_chain_model(directory / "model", TALK_TABLE, SHAPE)
        tokenizer = Tokenizer(directory / "model")
        print(
            f"{EPISODES} episodes at once, {TURNS} turns of {TOKENS} tokens; an engine that takes {ENGINE_S:g} s a call"
        )
        await cost_of_a_call(directory, tokenizer, seconds)
        print(f"real SGLang, {parameters / 1e6:.0f}M weights", flush=True)
        await against_bare(directory, directory / "model", tokenizer, seconds)


async def agents(way: str, url: str, seconds: float) -> None:
    """What the process of agents does; prints its sums as JSON."""
    made = Agents(url, seconds)
    lanes = {
        "bare": made.bare,
        "endpoint": made.through_the_endpoint,
        "stream": lambda: made.through_the_endpoint(stream=True),
    }
    print(json.dumps(asdict(await made.run(lanes[way]))))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        asyncio.run(agents(sys.argv[1], sys.argv[2], float(sys.argv[3])))
    else:
        asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0))

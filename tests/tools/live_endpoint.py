"""An endpoint in front of real SGLang with a chain model: what a worker has, without gateway and prompts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rollout.config import EndpointConfig, EpisodeLimits, SamplingConfig, WorkerConfig
from rollout.data.tokenizer import Tokenizer
from rollout.endpoint.served_policy import ServedPolicy
from rollout.endpoint.server import Endpoint
from rollout.engine.observer import Failure, ReplicaState
from rollout.engine.pool import EnginePool
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.episodes.book import EpisodeBook
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.observer import UncountedEpisodes
from rollout.episodes.offers import EpisodeOffers
from rollout.versions.verifier import Version
from tests.e2e.stack import free_port
from tests.tools.published import publish
from tests.tools.scripted_book import Counted

VERSION = 3
_START_S = 240.0  # a server's imports on a busy machine


class _Unobserved:
    def engine_state(self, engine: int, state: ReplicaState) -> None: ...

    def engine_refit(self, engine: int, version: int, seconds: float) -> None: ...

    def request_failed(self, engine: int, failure: Failure) -> None: ...


@dataclass
class LiveEndpoint:
    """What stands behind the endpoint, and what the engine has answered.

    Attributes:
        answers: (prompt, response) of every generation, in the order in which they ended.
    """

    endpoint: Endpoint
    book: EpisodeBook
    pool: EnginePool
    tokenizer: Tokenizer
    engine_url: str
    counted: Counted
    answers: list[tuple[list[int], Response]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def live_endpoint(directory: Path, model: Path, arguments: Sequence[str] = ()) -> AsyncIterator[LiveEndpoint]:
    """Starts SGLang with a model, loads a version of it, and serves episodes.

    Args:
        directory: for logs, weights and the socket.
        model: of a chat template.
        arguments: further ones of the server.
    """
    tokenizer = Tokenizer(model)
    publish(model, directory / "weights", VERSION)
    port = free_port()
    config = WorkerConfig.parse(
        {
            "gateway": "127.0.0.1:1", "model": model, "state_dir": directory, "log_dir": directory,
            "allowed_uris": [(directory / "weights").as_uri()],
            "engine": {"base_port": port, "start_timeout_s": _START_S, "arguments": list(arguments)},
        }, source="live endpoint",
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            EnginePool.open(config, tokenizer.vocab_size, _Unobserved(), tokenizer.text)
        )
        stack.push_async_callback(_stop, asyncio.create_task(pool.run()))
        await pool.load(Version(VERSION, directory / "weights" / f"weight_v{VERSION:06d}"))
        await asyncio.wait_for(pool.ready(), _START_S)
        answers: list[tuple[list[int], Response]] = []
        counted, chat_format = Counted(), ChatFormat(tokenizer)
        limits, sampling = EpisodeLimits(), Sampling(1.0, 256, tokenizer.eos_ids)

        async def generate(
            prompt: Sequence[int],
            sampling: Sampling,
            affinity: str = "",
            on_tokens: Callable[[Sequence[int]], None] | None = None,
        ) -> Response:
            response = await pool.generate_one(prompt, sampling, affinity, on_tokens)
            answers.append((list(prompt), response))
            return response

        book = EpisodeBook(generate, tokenizer, chat_format, sampling, limits, UncountedEpisodes())
        served = ServedPolicy(
            book, EpisodeOffers(), "policy", tokenizer.prompt_ids, chat_format.count, SamplingConfig(), limits, counted
        )
        endpoint = await stack.enter_async_context(Endpoint.open(EndpointConfig(), served, directory / "endpoint.sock"))
        url = f"http://127.0.0.1:{port}"
        yield LiveEndpoint(endpoint, book, pool, tokenizer, url, counted, answers)


async def _stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait([running])

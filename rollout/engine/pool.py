"""The engines of one worker: each request goes to a serving one, and again to a serving one when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import aiohttp

from rollout.config import WorkerConfig
from rollout.engine.adapters import AdapterLimits
from rollout.engine.dispatch import Dispatcher
from rollout.engine.draft import Decode, ResponseDraft
from rollout.engine.engine_key import EngineKey
from rollout.engine.lane import RequestLane
from rollout.engine.lanes import Lanes
from rollout.engine.observer import Failure, Observer, ReplicaState
from rollout.engine.prompt_limits import PromptLimits, context_length
from rollout.engine.replica import EngineReplica, PoolContext
from rollout.engine.response import Response
from rollout.engine.router import Router
from rollout.engine.routing_reader import RoutingReader
from rollout.engine.sampling import Sampling
from rollout.engine.server_process import Server
from rollout.engine.sglang import Engine
from rollout.engine.target_version import TargetVersion
from rollout.versions.verifier import Version


def _no_text(_: Sequence[int]) -> str:
    raise ValueError("sampling.stop: this pool was opened without a tokenizer to find texts with")


class EnginePool:
    """Engines behind one ``generate`` and one ``generate_one``. Open it with ``EnginePool.open`` and keep ``run`` running.

    Attributes:
        clock: seconds with and without a request under way on any engine.
        tokens: counts of tokens that arrived.
        lanes: the ways to the engines.
        routing: reads which experts the engines have sent tokens to; None: they are not asked.
    """

    def __init__(
        self,
        config: WorkerConfig,
        vocab_size: int,
        session: aiohttp.ClientSession,
        observer: Observer,
        decode: Decode,
    ) -> None:
        self._decode = decode
        self._observer = observer
        self._target = TargetVersion()
        self._freed = asyncio.Event()
        limits = PromptLimits(vocab_size, context_length(config.model))
        timeouts = config.request_timeout_s, config.engine.refit_timeout_s
        self.routing = RoutingReader.of(config.model) if config.engine.return_routed_experts else None
        context = PoolContext(
            session=session,
            target=self._target,
            refit=config.engine.refit,
            observer=self,
            connect=lambda url: Engine(url, session, limits, *timeouts, self.routing),
            freed=self._freed.set,
            model=config.model,
            key=EngineKey(config.engine.key_file, session),
            max_running=config.engine.max_running,
        )
        self._adapters: AdapterLimits | None = None
        self._replicas = [EngineReplica(index, source, context) for index, source in enumerate(self._sources(config))]
        router = config.engine.router
        self._router = None if router is None else self._router_at(router.rstrip("/"), context)
        lanes = [replica.lane for replica in self._replicas] if self._router is None else [self._router.lane]
        self.lanes = Lanes(lanes, self._freed)
        self._dispatcher = Dispatcher(self.lanes, observer)
        self.clock = self._dispatcher.clock
        self.tokens = self._dispatcher.tokens

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: WorkerConfig, vocab_size: int, observer: Observer, decode: Decode = _no_text
    ) -> AsyncIterator[EnginePool]:
        """Opens a pool and kills the servers that it started when the block ends.

        Args:
            config: of the worker.
            vocab_size: prompts have token ids below it.
            observer: hears what happens to the engines.
            decode: turns token ids into text, special tokens included, to find stop texts in it.
        """
        # Idle connections close before the server's own 5 s are over: a request must not meet one that it is just closing.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20) as session:
            pool = cls(config, vocab_size, session, observer, decode)
            try:
                yield pool
            finally:
                for replica in pool._replicas:
                    replica.take_down()

    def expect_adapters(self, limits: AdapterLimits) -> None:
        """Has the servers that are started from now on be prepared for adapters. Call it before ``run``."""
        self._adapters = limits

    async def run(self) -> None:
        """Starts every engine and keeps it running; never returns. Raises PortInUseError."""
        async with asyncio.TaskGroup() as group:
            for replica in self._replicas:
                group.create_task(replica.run())
            if self._router is not None:
                group.create_task(self._router.run())

    async def load(self, version: Version) -> None:
        """Makes a verified version current: every engine refits to it, and engines that start later load it first."""
        await self._target.set(version)

    def serving(self) -> int:
        """Number of engines that serve."""
        return sum(replica.lane.version is not None for replica in self._replicas)

    def running_version(self) -> int | None:
        """The oldest version that an engine serves; None when none serves."""
        return min(
            (replica.lane.version for replica in self._replicas if replica.lane.version is not None), default=None
        )

    def behind(self) -> str | None:
        """Says why no engine serves the current version; None when one does. May be called on any thread."""
        current = self._target.version
        if current is None:
            return "no version has been published yet"
        if any(replica.lane.version == current.number for replica in self._replicas):
            return None
        return f"no engine serves version {current.number} yet"

    async def ready(self) -> None:
        """Waits until an engine serves."""
        await self.lanes.for_batch()

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates one response for each prompt on one engine; when it fails, again on an engine that serves then.

        For short responses: all wait for the longest. While engines live and have too much to do, the request waits for as
        long as that lasts. Stop texts cannot be looked for in a batch: with any, each response is a request of its own.

        Raises:
            EngineError: the request failed three times in a row.
            UnattributedError: an engine does not say which version generated what.
            NotFiniteError: an engine's logits were not finite. It is restarted; the request is not tried again, because the
                weights may be what is wrong, and it would take down one engine after the other.
        """
        if sampling.stop:
            return list(await asyncio.gather(*(self.generate_one(prompt, sampling) for prompt in prompts)))
        return await self._dispatcher.batch(prompts, sampling)

    async def generate_one(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        affinity: str = "",
        on_tokens: Callable[[Sequence[int]], None] | None = None,
    ) -> Response:
        """Generates one response, streamed. When an engine fails or aborts it, another goes on from what has arrived.

        Nothing that has arrived is generated again, and the spans say which version made what. While engines live and have
        too much to do, the response waits for as long as that lasts.

        Args:
            prompt: token ids.
            sampling: how tokens are drawn, and what ends the response.
            affinity: responses with the same one share a prefix, which one engine keeps in its cache.
            on_tokens: called with new tokens as they arrive.

        Raises:
            EngineError: three engines in a row failed without one new token.
            UnattributedError, NotFiniteError: as ``generate`` does.
        """
        draft = ResponseDraft(prompt, sampling, self._decode, on_tokens)
        return await self._dispatcher.response(draft, affinity, at_once=on_tokens is not None)

    async def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Posts a short question to an engine that serves and returns the JSON of its answer. Waits until one serves.

        Raises:
            RefusedError: the engine refuses the question.
            EngineError: it does not answer it.
        """
        lane = await self.lanes.for_batch()
        return await lane.ask(path, body)

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Passes a replica's new state on to the pool's observer."""
        if state == "serving":
            self.clock.start()
            self._freed.set()
        if self._router is not None:
            self._router.follow()
        self._observer.engine_state(engine, state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """Passes a replica's refit on to the pool's observer."""
        if self._router is not None:
            self._router.follow()
        self._observer.engine_refit(engine, version, seconds)

    def request_failed(self, engine: int, failure: Failure) -> None:
        """Passes a request's failure on to the pool's observer."""
        self._observer.request_failed(engine, failure)

    def _sources(self, config: WorkerConfig) -> list[str] | list[Callable[[], Server]]:
        if config.engine.urls:
            return [url.rstrip("/") for url in config.engine.urls]
        return [partial(self._start, config, index) for index in range(config.engine.count)]

    def _start(self, config: WorkerConfig, index: int) -> Server:
        log = config.log_dir / f"{config.name}.engine-{index}.log"
        return Server(config.engine, index, config.model, log, self._adapters)

    def _router_at(self, url: str, context: PoolContext) -> Router:
        engines = len(self._replicas)
        lane = RequestLane(engines, context.max_running * engines, self._freed.set)
        return Router(
            context.connect(url), lane, self.running_version, self._prove_weights, lambda: self.serving() == engines
        )

    async def _prove_weights(self) -> None:
        await asyncio.gather(*(replica.prove_weights() for replica in self._replicas))

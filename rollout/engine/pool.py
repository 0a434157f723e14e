"""The engines of one worker: each request goes to a serving one, and again to a serving one when it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import aiohttp
import structlog

from rollout.config import WorkerConfig
from rollout.engine.busy_clock import BusyClock
from rollout.engine.errors import BusyError, EngineError, NotFiniteError
from rollout.engine.observer import Failure, Observer, ReplicaState
from rollout.engine.prompt_limits import PromptLimits, context_length
from rollout.engine.replica import EngineReplica, PoolContext, TargetVersion
from rollout.engine.server_process import Server
from rollout.engine.sglang import Engine, Response, Sampling
from rollout.versions.verifier import Version

_ATTEMPTS = 3  # of one request, each on an engine that serves then: a request that nobody can answer must end


class EnginePool:
    """Engines behind one ``generate``. Open it with ``EnginePool.open`` and keep ``run`` running.

    Attributes:
        clock: seconds with and without a request under way on any engine.
    """

    def __init__(
        self, config: WorkerConfig, vocab_size: int, session: aiohttp.ClientSession, observer: Observer
    ) -> None:
        self.clock = BusyClock()
        self._observer = observer
        self._target = TargetVersion()
        self._freed = asyncio.Event()
        limits = PromptLimits(vocab_size, context_length(config.model))
        timeouts = config.request_timeout_s, config.engine.refit_timeout_s
        context = PoolContext(
            session=session,
            target=self._target,
            refit=config.engine.refit,
            observer=self,
            connect=lambda url: Engine(url, session, limits, *timeouts),
            freed=self._freed.set,
            model=config.model,
        )
        self._replicas = [EngineReplica(index, source, context) for index, source in enumerate(_sources(config))]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: WorkerConfig, vocab_size: int, observer: Observer) -> AsyncIterator[EnginePool]:
        """Opens a pool and kills the servers that it started when the block ends."""
        # Idle connections close before the server's own 5 s are over: a request must not meet one that it is just closing.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20) as session:
            pool = cls(config, vocab_size, session, observer)
            try:
                yield pool
            finally:
                for replica in pool._replicas:
                    replica.take_down()

    async def run(self) -> None:
        """Starts every engine and keeps it running; never returns. Raises PortInUseError."""
        async with asyncio.TaskGroup() as group:
            for replica in self._replicas:
                group.create_task(replica.run())

    async def load(self, version: Version) -> None:
        """Makes a verified version current: every engine refits to it, and engines that start later load it first."""
        await self._target.set(version)

    def serving(self) -> int:
        """Number of engines that serve."""
        return sum(replica.version is not None for replica in self._replicas)

    def running_version(self) -> int | None:
        """The oldest version that an engine serves; None when none serves."""
        return min((replica.version for replica in self._replicas if replica.version is not None), default=None)

    def behind(self) -> str | None:
        """Says why no engine serves the current version; None when one does. May be called on any thread."""
        current = self._target.version
        if current is None:
            return "no version has been published yet"
        if any(replica.version == current.number for replica in self._replicas):
            return None
        return f"no engine serves version {current.number} yet"

    async def ready(self) -> None:
        """Waits until an engine serves."""
        await self._pick()

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates one response for each prompt on one engine; when it fails, again on an engine that serves then.

        While engines live and have too much to do, the request waits for as long as that lasts.

        Raises:
            EngineError: the request failed three times in a row.
            UnattributedError: an engine does not say which version generated what.
            NotFiniteError: an engine's logits were not finite. It is restarted; the request is not tried again, because the
                weights may be what is wrong, and it would take down one engine after the other.
        """
        failed = 0
        while True:
            replica = await self._pick()
            self.clock.enter()
            try:
                return await replica.generate(prompts, sampling)
            except EngineError as error:
                failed += not isinstance(error, BusyError)
                self._observer.request_failed(replica.index, error.failure)
                structlog.get_logger().warning(
                    "generation failed", engine=replica.index, failures=failed, error=str(error)
                )
                if failed == _ATTEMPTS or isinstance(error, NotFiniteError):
                    raise
            finally:
                self.clock.leave()

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Passes a replica's new state on to the pool's observer."""
        if state == "serving":
            self.clock.start()
            self._freed.set()
        self._observer.engine_state(engine, state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """Passes a replica's refit on to the pool's observer."""
        self._observer.engine_refit(engine, version, seconds)

    def request_failed(self, engine: int, failure: Failure) -> None:
        """Passes a request's failure on to the pool's observer."""
        self._observer.request_failed(engine, failure)

    async def _pick(self) -> EngineReplica:
        """Returns the engine with the fewest requests among those that take some; waits until one does."""
        while True:
            waits = [(replica, wait) for replica in self._replicas if (wait := replica.free_in_s()) is not None]
            free = [replica for replica, wait in waits if wait <= 0]
            if free:
                return min(free, key=lambda replica: replica.requests)
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min((wait for _, wait in waits), default=None)):
                    await self._freed.wait()


def _sources(config: WorkerConfig) -> list[str] | list[Callable[[], Server]]:
    if config.engine.urls:
        return [url.rstrip("/") for url in config.engine.urls]
    logs = [config.log_dir / f"{config.name}.engine-{index}.log" for index in range(config.engine.count)]
    return [partial(Server, config.engine, index, config.model, log) for index, log in enumerate(logs)]

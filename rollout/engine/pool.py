"""The engines of one worker: which serves, which gets the next request, and who does it again when one dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import aiohttp
import structlog

from rollout.config import WorkerConfig
from rollout.engine.busy_clock import BusyClock
from rollout.engine.observer import Observer, State
from rollout.engine.replica import EngineReplica, PoolContext, TargetVersion
from rollout.engine.server_process import Server
from rollout.engine.sglang import Engine, EngineError, Response, Sampling
from rollout.versions.verifier import Version

_ATTEMPTS = 3  # of one request, each on an engine that serves then; a request that kills engines must end


class EnginePool:
    """Engines behind one ``generate``. Open it with ``Fleet.open`` and keep ``run`` running.

    Attributes:
        clock: how long some engine worked and how long none did.
    """

    def __init__(
        self, config: WorkerConfig, vocab_size: int, session: aiohttp.ClientSession, observer: Observer
    ) -> None:
        self.clock = BusyClock()
        self._observer = observer
        self._target = TargetVersion()
        self._serving = asyncio.Event()
        timeout_s = config.engine.request_timeout_s
        shared = PoolContext(
            session=session,
            target=self._target,
            refit=config.engine.refit,
            observer=self,
            connect=lambda url: Engine(url, session, vocab_size, timeout_s),
        )
        self._members = [EngineReplica(index, source, shared) for index, source in enumerate(_sources(config))]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: WorkerConfig, vocab_size: int, observer: Observer) -> AsyncIterator[EnginePool]:
        """A fleet whose servers are gone when the block ends."""
        # Idle connections go before the server's own 5 s are over: a request must not meet one that it is just closing.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20) as session:
            fleet = cls(config, vocab_size, session, observer)
            try:
                yield fleet
            finally:
                for member in fleet._members:
                    member.take_down()

    async def run(self) -> None:
        """Lives every engine's life; never returns. Raises PortInUseError."""
        async with asyncio.TaskGroup() as group:
            for member in self._members:
                group.create_task(member.run())

    async def load(self, version: Version) -> None:
        """Makes a verified version current: every engine refits to it, and new ones start with it."""
        await self._target.set(version)

    def serving(self) -> int:
        """How many engines serve."""
        return sum(member.version is not None for member in self._members)

    def running_version(self) -> int | None:
        """The oldest version that an engine serves; None when none serves."""
        return min((member.version for member in self._members if member.version is not None), default=None)

    def behind(self) -> str | None:
        """Why no engine serves the current version; None when one does. May be called on any thread."""
        current = self._target.version
        if current is None:
            return "no version has been published yet"
        if any(member.version == current.number for member in self._members):
            return None
        return f"no engine serves version {current.number} yet"

    async def ready(self) -> None:
        """Waits until an engine serves."""
        await self._pick()

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """One response for each prompt from one engine; from another, or the same after its restart, when it dies.

        Raises:
            RefusedError: the request is wrong.
            EngineError: so many engines died of it that it is to blame.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            member = await self._pick()
            self.clock.enter()
            try:
                return await member.generate(prompts, sampling)
            except EngineError as error:
                member.fail(str(error))
                structlog.get_logger().warning(
                    "generation failed", engine=member.index, attempt=attempt, error=str(error)
                )
                if attempt == _ATTEMPTS:
                    raise
            finally:
                self.clock.leave()
        raise AssertionError("unreachable")

    def engine_state(self, engine: int, state: State) -> None:
        """A member's news; passed on."""
        if state == "serving":
            self.clock.start()
            self._serving.set()
        self._observer.engine_state(engine, state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """A member's news; passed on."""
        self._observer.engine_refit(engine, version, seconds)

    async def _pick(self) -> EngineReplica:
        """The serving engine with the fewest requests; waits until one serves."""
        while True:
            serving = [member for member in self._members if member.version is not None]
            if serving:
                return min(serving, key=lambda member: member.requests)
            self._serving.clear()
            await self._serving.wait()


def _sources(config: WorkerConfig) -> list[str] | list[Callable[[], Server]]:
    if config.engine.urls:
        return [url.rstrip("/") for url in config.engine.urls]
    logs = [config.log_dir / f"{config.name}.engine-{index}.log" for index in range(config.engine.count)]
    return [partial(Server, config.engine, index, config.model, log) for index, log in enumerate(logs)]

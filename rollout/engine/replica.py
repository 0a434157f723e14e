"""One engine of the pool, kept running: starting -> stale -> serving(version) -> dead -> starting ...

An engine serves only after a refit to the version that is current then: one that has just started has the weights of the
initial policy, which belong to no published version.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import structlog

from rollout.client.backoff import Backoff
from rollout.engine.adapters import ServedAdapter
from rollout.engine.engine_key import EngineKey
from rollout.engine.errors import EngineError
from rollout.engine.lane import RequestLane
from rollout.engine.observer import Observer, ReplicaState
from rollout.engine.served_model import ServedModelError, require_same_model
from rollout.engine.server_process import PortInUseError, Server, ServerError, unreachable
from rollout.engine.sglang import Engine
from rollout.engine.target_version import TargetVersion
from rollout.engine.weights import RefitMode
from rollout.versions.verifier import Version

T = TypeVar("T")

_ENDED_EVERY_S = 0.1
_LOAD_EVERY_S = 1.0
_AWAY_EVERY_S = 60.0  # how often it is said that a server elsewhere does not answer


@dataclass(frozen=True)
class PoolContext:
    """The objects that the replicas of one pool share.

    Attributes:
        connect: returns the client of the server at a URL.
        freed: called when a replica takes requests again, or one more response.
        model: the run's model directory.
        key: the key that engines elsewhere want.
        max_running: most responses under way on one engine.
    """

    session: aiohttp.ClientSession
    target: TargetVersion
    refit: RefitMode
    observer: Observer
    connect: Callable[[str], Engine]
    freed: Callable[[], None]
    model: Path
    key: EngineKey
    max_running: int


class EngineReplica:
    """One engine: its server if the pool starts it, its client, its state.

    Args:
        index: its number in the worker.
        source: the URL of a server that runs elsewhere, or a function that starts one here.
        context: what the replicas share.

    Attributes:
        lane: takes requests to it.
    """

    def __init__(self, index: int, source: str | Callable[[], Server], context: PoolContext) -> None:
        self.index = index
        self.lane = RequestLane(index, context.max_running, context.freed)
        self._source = source
        self._context = context
        self._server: Server | None = None
        self._engine: Engine | None = None
        self._backoff = Backoff(0.5, 30.0)

    async def run(self) -> None:
        """Starts the engine, refits it to each current version, and restarts it when it is dead. Never returns.

        A server that runs elsewhere is not killed: it is set aside until it answers again.

        The delay before a restart grows with the failures in a row.

        Raises:
            PortInUseError: at the first start; a restart waits for the port instead.
            ServedModelError: at the first start, as that.
            UnattributedError: the server cannot say which version it serves.
        """
        starts = 0
        while True:
            self._report("starting")
            try:
                self._engine = await self._bring_up()
                starts += 1
                self._report("stale")
                await self._run_until_failure(self._engine)
            except (PortInUseError, ServedModelError) as error:
                if not starts:
                    raise
                structlog.get_logger().warning("engine cannot restart", engine=self.index, error=str(error))
            except (ServerError, EngineError) as error:
                structlog.get_logger().warning("engine failed", engine=self.index, error=str(error))
            finally:
                self.lane.fail("the engine ended")
                self.take_down()
            self._report("dead")
            await self._backoff.wait()

    async def prove_weights(self) -> None:
        """Fails the engine if its weights are not those that were loaded into it. Asks only what serves."""
        if self._engine is None or self.lane.version is None:
            return
        version = self.lane.version
        try:
            label = await self._engine.weights.label()
        except EngineError:
            self.lane.health.doubt()
            return
        if self.lane.version == version and label != str(version):
            self.lane.fail(f"its weights are labelled {label!r} and not {version}")

    def take_down(self) -> None:
        """Kills the server if the pool started it."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    async def _bring_up(self) -> Engine:
        self.lane.renew()
        if isinstance(self._source, str):
            await self._until_reached(self._source)
            await require_same_model(self._context.session, self._source, self._context.model)
            engine = self._context.connect(self._source)
        else:
            self._server = self._source()
            await self._server.wait_until_up(self._context.session)
            engine = self._context.connect(self._server.url)
        await engine.learn_limits()
        self.lane.lead_to(engine)
        return engine

    async def _until_reached(self, url: str) -> None:
        said = -_AWAY_EVERY_S
        self._context.key.refresh()
        while (problem := await unreachable(self._context.session, url)) is not None:
            now = asyncio.get_running_loop().time()
            if now - said >= _AWAY_EVERY_S:
                structlog.get_logger().warning("engine does not answer; asked again", engine=self.index, error=problem)
                said = now
            await asyncio.sleep(1.0)
            self._context.key.refresh()

    async def _run_until_failure(self, engine: Engine) -> None:
        """Refits the engine and watches it until something fails. Raises EngineError."""
        duties = (
            self._follow_versions(engine),
            self.lane.health.watch(engine),
            self._watch_process(),
            self._watch_load(engine),
            self._await_failure(),
        )
        tasks = [asyncio.create_task(duty) for duty in duties]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_versions(self, engine: Engine) -> None:
        loaded: int | None = None
        while True:
            version = await self._context.target.other_than(loaded)
            if version.adapter is not None:
                await engine.adapters.room()
                version = await self._context.target.other_than(loaded)  # the newest one: that may have taken minutes
            loaded = version.number
            if not (version.path / "manifest.json").is_file():
                # Removed since it was verified: the learner keeps only the newest, so another is on its way.
                structlog.get_logger().warning("version is gone", engine=self.index, version=version.number)
                continue
            if version.adapter is not None:
                adapter = ServedAdapter(version.adapter, version.number)
                seconds = await engine.adapters.load(adapter, version.path)
            else:
                seconds = await self._refit(engine, version)
            self._context.freed()
            self._context.observer.engine_refit(self.index, version.number, seconds)
            first, self.lane.version = self.lane.version is None, version.number
            if first:
                self._backoff.reset()
                self._report("serving")

    async def _refit(self, engine: Engine, version: Version) -> float:
        """Replaces the engine's weights; returns the seconds it took."""
        # Nothing runs before the first refit: nothing to pause.
        mode = "drain" if self.lane.version is None else self._context.refit
        async with self.lane.gate.closed(wait=mode == "drain"):
            with self.lane.health.paused():
                seconds = await engine.weights.refit(version.number, version.path, mode)
        engine.adapters.leave()
        return seconds

    async def _watch_process(self) -> None:
        server = self._server
        while server is None or not server.ended():  # noqa: ASYNC110 - asyncio did not start it
            await asyncio.sleep(_ENDED_EVERY_S)
        raise EngineError(f"the server ended; its log ends with\n{server.tail()}")

    async def _watch_load(self, engine: Engine) -> None:
        """Looks once a second how much the engine has to do, while it has something to do for us."""
        while True:
            await asyncio.sleep(_LOAD_EVERY_S)
            if self.lane.responses:
                with contextlib.suppress(EngineError):  # whether it lives is for its health to say
                    self.lane.limit.look(await engine.load(), self.lane.responses)
                    self._context.freed()

    async def _await_failure(self) -> None:
        raise EngineError(await asyncio.shield(self.lane.failure))

    def _report(self, state: ReplicaState) -> None:
        self._context.observer.engine_state(self.index, state)
        structlog.get_logger().info(f"engine {state}", engine=self.index, version=self.lane.version)

"""One engine of the pool, kept running: starting -> stale -> serving(version) -> dead -> starting ...

An engine serves only after a refit to the version that is current then: one that has just started has the weights of the
initial policy, which belong to no published version.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog

from rollout.client.backoff import Backoff
from rollout.engine.drain_gate import DrainGate
from rollout.engine.errors import BusyError, EngineError, WeightsError
from rollout.engine.health_check import HealthCheck
from rollout.engine.observer import Observer, ReplicaState
from rollout.engine.served_model import ServedModelError, require_same_model
from rollout.engine.server_process import PortInUseError, Server, ServerError, unreachable
from rollout.engine.sglang import Engine, RefitMode, Response, Sampling
from rollout.versions.verifier import Version

_ENDED_EVERY_S = 0.1
_AWAY_EVERY_S = 60.0  # how often it is said that a server elsewhere does not answer
_REST_S, _LONGEST_REST_S = 0.5, 30.0  # without new requests, after one that failed on a server that lives
_LONGEST_RETRY_AFTER_S = 300.0  # that a server may ask for


class TargetVersion:
    """The version that engines have to serve.

    Attributes:
        version: None until the first one is set.
    """

    def __init__(self) -> None:
        self.version: Version | None = None
        self._changed = asyncio.Condition()

    async def set(self, version: Version) -> None:
        """Makes a version current and wakes those who wait for it."""
        async with self._changed:
            self.version = version
            self._changed.notify_all()

    async def other_than(self, number: int | None) -> Version:
        """Returns the current version as soon as its number is not ``number``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.version is not None and self.version.number != number)
            assert self.version is not None
            return self.version


@dataclass(frozen=True)
class PoolContext:
    """The objects that the replicas of one pool share.

    Attributes:
        connect: returns the client of the server at a URL.
        freed: called when a replica takes requests again.
        model: the run's model directory.
    """

    session: aiohttp.ClientSession
    target: TargetVersion
    refit: RefitMode
    observer: Observer
    connect: Callable[[str], Engine]
    freed: Callable[[], None]
    model: Path


class EngineReplica:
    """One engine: its server if the pool starts it, its client, its state.

    Args:
        index: its number in the worker.
        source: the URL of a server that runs elsewhere, or a function that starts one here.
        context: what the replicas share.

    Attributes:
        version: the version it serves; None unless serving.
        requests: number of generations under way on it.
    """

    def __init__(self, index: int, source: str | Callable[[], Server], context: PoolContext) -> None:
        self.index = index
        self.version: int | None = None
        self.requests = 0
        self._gate = DrainGate()
        self._source = source
        self._context = context
        self._server: Server | None = None
        self._engine: Engine | None = None
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._backoff = Backoff(0.5, 30.0)
        self._health = HealthCheck(context.freed)
        self._rest = Backoff(_REST_S, _LONGEST_REST_S)
        self._rests_until = 0.0

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
                self.fail("the engine ended")
                self.take_down()
            self._report("dead")
            await self._backoff.wait()

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates as ``Engine.generate`` does; fails at once when the engine fails.

        After a failure the engine rests, and unless it was only busy its health is asked, which decides whether it lives.

        Raises:
            EngineError: also when the engine died, or does not serve.
            UnattributedError: the server does not say which version generated what.
        """
        if self._engine is None or self.version is None:
            raise EngineError(f"engine {self.index} does not serve", "connection")
        failure = self._failure
        self.requests += 1
        request = asyncio.ensure_future(self._gate.through(self._engine.generate(prompts, sampling)))
        # Once the engine has failed nobody awaits the request; asyncio logs errors that were never retrieved.
        request.add_done_callback(lambda request: request.cancelled() or request.exception())
        try:
            await asyncio.wait({request, failure}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                raise EngineError(failure.result(), "restart")
            responses = request.result()
            self._rest.reset()
            return responses
        except EngineError as error:
            if failure is self._failure:  # else it has been restarted meanwhile, and is blamed for nothing
                self._doubt(error)
            raise
        finally:
            self.requests -= 1
            request.cancel()

    def free_in_s(self) -> float | None:
        """Seconds until it takes a request, 0 for at once; None when it does not serve, or it is unknown whether it lives."""
        if self.version is None or self._health.suspect:
            return None
        return max(0.0, self._rests_until - asyncio.get_running_loop().time())

    def _doubt(self, error: EngineError) -> None:
        if isinstance(error, WeightsError):
            self.fail(str(error))
            return
        if not isinstance(error, BusyError):
            self._health.doubt()
        now, pause = asyncio.get_running_loop().time(), 0.0
        if now >= self._rests_until:  # requests that failed together are one reason to rest
            pause = self._rest.delay()
        if isinstance(error, BusyError) and error.retry_after_s is not None:
            pause = max(pause, min(error.retry_after_s, _LONGEST_RETRY_AFTER_S) * random.uniform(1.0, 1.5))
        self._rests_until = max(self._rests_until, now + pause)

    def fail(self, reason: str) -> None:
        """Marks the engine as failed: every request on it ends with EngineError, and ``run`` restarts it."""
        self.version = None
        if not self._failure.done():
            self._failure.set_result(reason)

    def take_down(self) -> None:
        """Kills the server if the pool started it."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    async def _bring_up(self) -> Engine:
        self._failure = asyncio.get_running_loop().create_future()
        self._health = HealthCheck(self._context.freed)
        self._rest.reset()
        self._rests_until = 0.0
        if isinstance(self._source, str):
            await self._until_reached(self._source)
            await require_same_model(self._context.session, self._source, self._context.model)
            engine = self._context.connect(self._source)
        else:
            self._server = self._source()
            await self._server.wait_until_up(self._context.session)
            engine = self._context.connect(self._server.url)
        await engine.learn_limits()
        return engine

    async def _until_reached(self, url: str) -> None:
        said = -_AWAY_EVERY_S
        while (problem := await unreachable(self._context.session, url)) is not None:
            now = asyncio.get_running_loop().time()
            if now - said >= _AWAY_EVERY_S:
                structlog.get_logger().warning("engine does not answer; asked again", engine=self.index, error=problem)
                said = now
            await asyncio.sleep(1.0)

    async def _run_until_failure(self, engine: Engine) -> None:
        """Refits the engine and watches it until something fails. Raises EngineError."""
        duties = (
            self._follow_versions(engine),
            self._health.watch(engine),
            self._watch_process(),
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
            loaded = version.number
            if not (version.path / "manifest.json").is_file():
                # Removed since it was verified: the learner keeps only the newest, so another is on its way.
                structlog.get_logger().warning("version is gone", engine=self.index, version=version.number)
                continue
            # Nothing runs before the first refit: nothing to pause.
            mode = "drain" if self.version is None else self._context.refit
            async with self._gate.closed(wait=mode == "drain"):
                with self._health.paused():
                    seconds = await engine.refit(version.number, version.path, mode)
            self._context.observer.engine_refit(self.index, version.number, seconds)
            first, self.version = self.version is None, version.number
            if first:
                self._backoff.reset()
                self._report("serving")

    async def _watch_process(self) -> None:
        server = self._server
        while server is None or not server.ended():  # noqa: ASYNC110 - asyncio did not start it
            await asyncio.sleep(_ENDED_EVERY_S)
        raise EngineError(f"the server ended; its log ends with\n{server.tail()}")

    async def _await_failure(self) -> None:
        raise EngineError(await asyncio.shield(self._failure))

    def _report(self, state: ReplicaState) -> None:
        self._context.observer.engine_state(self.index, state)
        structlog.get_logger().info(f"engine {state}", engine=self.index, version=self.version)

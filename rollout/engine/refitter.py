"""Follows the published versions: each newest one is fetched, verified and loaded; what cannot be fetched is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast

import structlog

from leeway.v1 import rollout_pb2
from rollout.versions.manifest import FetchError, VersionError
from rollout.versions.verifier import Version

T = TypeVar("T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_REPORT_EVERY_S = 60.0  # the learner keeps a version for ten minutes after it was last told that somebody fetches it


class RefitObserver(Protocol):
    """Hears of versions that were not loaded."""

    def refused(self, version: int, error: VersionError) -> None:
        """Called when a version is damaged, not of this model, or at a place that is not allowed."""
        ...

    def fetch_failed(self, version: int, error: FetchError) -> None:
        """Called when a version could not be fetched; it is tried again unless there is a newer one."""
        ...


class Refitter:
    """Passes the newest version, once verified, to the engines.

    Args:
        verify: fetches and verifies a version; blocks, and raises VersionError.
        load: passes a verified version to the engines.
        report: tells the gateway that a version is being fetched.
        observer: hears of versions that were not loaded.
    """

    def __init__(
        self,
        verify: Callable[[rollout_pb2.Policy], Version],
        load: Callable[[rollout_pb2.Policy, Version], Awaitable[None]],
        report: Callable[[int], Awaitable[object]],
        observer: RefitObserver,
    ) -> None:
        self._verify = verify
        self._load = load
        self._report = report
        self._observer = observer
        self._newest: rollout_pb2.Policy | None = None
        self._arrived = asyncio.Event()
        self._fetching: int | None = None
        self._begun = asyncio.Event()

    def announce(self, policy: rollout_pb2.Policy) -> None:
        """Takes a newer version; one that was waiting is passed over."""
        self._newest = policy
        self._arrived.set()

    async def run(self) -> None:
        """Follows the announcements; never returns. Raises what ``load`` and ``report`` raise."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._report_fetches())

    async def _follow(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            assert self._newest is not None
            policy = self._newest
            version = await self._fetched(policy)
            if version is not None:
                await self._load(policy, version)

    async def _fetched(self, policy: rollout_pb2.Policy) -> Version | None:
        """Returns the verified version; None if it is refused, or a newer one came before it could be fetched."""
        self._fetching = policy.version
        self._begun.set()
        pause = _FIRST_PAUSE_S
        log = structlog.get_logger()
        try:
            while True:
                try:
                    return await in_daemon_thread(lambda: self._verify(policy))
                except FetchError as error:
                    log.warning(
                        "version not fetched; tried again", version=policy.version, error=str(error), pause_s=pause
                    )
                    self._observer.fetch_failed(policy.version, error)
                except VersionError as error:
                    log.error("version refused", version=policy.version, field=error.field, value=error.value)
                    self._observer.refused(policy.version, error)
                    return None
                if await self._newer_within(pause):
                    return None
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        finally:
            self._fetching = None

    async def _newer_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    async def _report_fetches(self) -> None:
        """Reports the version that is being fetched, at once and again while it is: without that it may be removed."""
        while True:
            await self._begun.wait()
            self._begun.clear()
            while self._fetching is not None:
                await self._report(self._fetching)
                try:
                    async with asyncio.timeout(_REPORT_EVERY_S):
                        await self._begun.wait()
                except TimeoutError:
                    continue
                self._begun.clear()


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """Awaits a blocking call. Unlike those of asyncio.to_thread, its thread does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():  # cancelled
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as caught:  # noqa: BLE001 - the end of this thread; raised where the call is awaited
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="refit", daemon=True).start()
    return await answer

"""Following versions: what cannot be fetched is tried again until a newer one comes; what is wrong is refused at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leeway.v1 import rollout_pb2
from rollout.engine import refitter as module
from rollout.engine.refitter import Refitter, in_daemon_thread
from rollout.versions.manifest import FetchError, VersionError
from rollout.versions.verifier import Version
from tests.tools.fleet_peers import until


class Scene:
    """A refitter whose versions are verified as the test says; what it did, in order."""

    def __init__(self) -> None:
        self.answers: dict[int, list[Exception]] = {}  # what the attempts at a version raise, before one succeeds
        self.attempts: list[int] = []
        self.loaded: list[int] = []
        self.reported: list[int] = []
        self.refusals: list[int] = []
        self.failures: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.refitter = Refitter(self.verify, self.load, self.report, self)

    def verify(self, policy: rollout_pb2.Policy) -> Version:
        self.attempts.append(policy.version)
        assert self.gate.wait(60)
        if answers := self.answers.get(policy.version):
            raise answers.pop(0)
        return Version(policy.version, Path("/w"))

    async def load(self, policy: rollout_pb2.Policy, version: Version) -> None:
        self.loaded.append(version.number)

    async def report(self, version: int) -> None:
        self.reported.append(version)

    def refused(self, version: int, error: VersionError) -> None:
        self.refusals.append(version)

    def fetch_failed(self, version: int, error: FetchError) -> None:
        self.failures.append(version)

    def announce(self, version: int) -> None:
        self.refitter.announce(rollout_pb2.Policy(version=version))


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    scene = Scene()
    task = asyncio.create_task(scene.refitter.run())
    yield scene
    scene.gate.set()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_fetch_that_fails_is_tried_again_for_the_same_version(scene: Scene):
    scene.answers[4] = [FetchError("policy.uri", "reset"), FetchError("policy.uri", "reset")]
    scene.announce(4)
    await until(lambda: scene.loaded == [4], "the version")
    assert (scene.attempts, scene.failures, scene.refusals) == ([4, 4, 4], [4, 4], [])


async def test_a_newer_version_ends_the_attempts(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 600.0)
    scene.answers[4] = [FetchError("policy.uri", "reset")]
    scene.announce(4)
    await until(lambda: scene.failures == [4], "the failure")
    scene.announce(5)
    await until(lambda: scene.loaded == [5], "the newer version")
    assert scene.attempts == [4, 5]


async def test_a_version_that_is_wrong_is_refused_once(scene: Scene):
    scene.answers[4] = [VersionError("files[x].digest", "differs")]
    scene.announce(4)
    await until(lambda: scene.refusals == [4], "the refusal")
    scene.announce(5)
    await until(lambda: scene.loaded == [5], "the next version")
    assert (scene.attempts, scene.failures) == ([4, 5], [])


async def test_versions_that_came_meanwhile_are_passed_over_but_the_newest(scene: Scene):
    scene.gate.clear()
    scene.announce(4)
    await until(lambda: scene.attempts == [4], "the first attempt")
    scene.announce(5)
    scene.announce(6)
    scene.gate.set()
    await until(lambda: scene.loaded == [4, 6], "the newest version")


async def test_what_is_being_fetched_is_reported_again_and_again(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_REPORT_EVERY_S", 0.01)
    scene.gate.clear()
    scene.announce(4)
    await until(lambda: scene.reported.count(4) >= 3, "three reports")
    scene.gate.set()
    await until(lambda: scene.loaded == [4], "the version")
    scene.announce(5)
    await until(lambda: 5 in scene.reported, "a report of the next version")


async def test_a_blocking_call_does_not_hold_up_the_end():
    release = threading.Event()
    call = asyncio.create_task(in_daemon_thread(lambda: release.wait(60)))
    await until(lambda: any(thread.name == "refit" for thread in threading.enumerate()), "the thread")
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "refit")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert await in_daemon_thread(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 / 0)

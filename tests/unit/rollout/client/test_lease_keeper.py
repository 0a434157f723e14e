"""The lease keeper against a scripted client: what is renewed, how often, what is lost, and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import LeaseKeeper


class ScriptedClient:
    """Renews everything but ``lost``, for ``expires_in_ms``."""

    def __init__(self) -> None:
        self.renewals: list[tuple[list[str], int | None]] = []
        self.lost: set[str] = set()
        self.during: Any = lambda: None
        self.news = asyncio.Event()

    async def renew(self, lease_ids: Sequence[str], running_version: int | None) -> pb.LeaseResponse:
        self.renewals.append((list(lease_ids), running_version))
        self.during()
        self.news.set()
        return pb.LeaseResponse(expires_in_ms=300, lost_lease_ids=[one for one in lease_ids if one in self.lost])

    async def renewed(self, times: int) -> None:
        """Waits for that many further renewals."""
        for _ in range(times):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)


class Scene:
    def __init__(self) -> None:
        self.client, self.lost = ScriptedClient(), list[str]()
        self.keeper = LeaseKeeper(self.client, lambda: 7, self.lost.extend)  # pyright: ignore[reportArgumentType]

    def hold(self, *lease_ids: str) -> None:
        for lease_id in lease_ids:
            self.keeper.hold(pb.LeaseResponse(lease_id=lease_id, groups=1, expires_in_ms=300))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    task = asyncio.create_task(scene.keeper.run())
    yield scene
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_held_leases_are_renewed_again_and_again_in_one_call(scene: Scene):
    scene.hold("a", "b")
    await scene.client.renewed(3)
    assert scene.client.renewals == [(["a", "b"], 7)] * 3


async def test_released_leases_are_not_renewed_and_nothing_is_asked_without_any(scene: Scene):
    scene.hold("a", "b")
    await scene.client.renewed(1)
    scene.keeper.release("a")
    await scene.client.renewed(1)
    assert scene.client.renewals[-1][0] == ["b"]
    scene.keeper.release("b")
    scene.hold("c")  # the call that follows says what was held in between
    await scene.client.renewed(1)
    assert scene.client.renewals[2:] == [(["c"], 7)]


async def test_lost_leases_are_reported_once_and_not_asked_for_again(scene: Scene):
    scene.client.lost = {"b"}
    scene.hold("a", "b")
    await scene.client.renewed(2)
    assert scene.lost == ["b"]
    assert scene.client.renewals[-1][0] == ["a"]


async def test_a_lease_used_up_during_the_call_is_not_lost(scene: Scene):
    scene.client.lost = {"a"}
    scene.client.during = lambda: scene.keeper.release("a")
    scene.hold("a")
    await scene.client.renewed(1)
    scene.hold("b")
    await scene.client.renewed(1)
    assert scene.lost == []


async def test_many_leases_are_renewed_in_calls_that_the_gateway_takes(scene: Scene):
    scene.hold(*map(str, range(2500)))
    await scene.client.renewed(1)
    while len(scene.client.renewals) < 3:
        await scene.client.renewed(1)
    assert [len(held) for held, _ in scene.client.renewals[:3]] == [1000, 1000, 500]

"""An endpoint in front of one scripted episode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from rollout.endpoint.server import Endpoint
from tests.tools.scripted_book import KEY, Counted, ScriptedEpisode, serve


@pytest.fixture
async def episode() -> ScriptedEpisode:
    return ScriptedEpisode()


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
async def endpoint(episode: ScriptedEpisode, counted: Counted, tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with serve(episode, counted, tmp_path) as endpoint:
        yield endpoint


@pytest.fixture
async def http(endpoint: Endpoint) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with the episode's key; paths begin at /v1."""
    headers = {"Authorization": f"Bearer {KEY}"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(endpoint.url + "/", headers=headers, timeout=timeout) as session:
        yield session

"""What tests of adapters need: pools whose hosts run another project's package, and episodes that are scripted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.config import TaskConfig
from rollout.environments.access import EpisodeAccess
from rollout.environments.pool import EnvironmentPool
from tests.tools.foreign_venv import ForeignVenv
from tests.tools.scripted_book import KEY, Counted, ScriptedEpisode, serve

ADAPTED = Path(__file__).parent / "adapted"


def require_python(name: str) -> Path:
    """Returns the interpreter of a project's virtualenv; skips the test where that is not built."""
    python = ForeignVenv(name).python
    if python is None:
        pytest.skip(f"the virtualenv of {name} is not built: make agents AGENTS={name}")
    return python


@contextlib.asynccontextmanager
async def open_pool(name: str, directory: Path, python: Path | None, **options: Any) -> AsyncIterator[EnvironmentPool]:
    """Opens the pool of a built-in task whose options are given."""
    values = {"name": name, "options": options, "python": None if python is None else str(python)}
    config = TaskConfig.parse({**values, "reward_timeout_s": 60.0}, source="test")
    async with EnvironmentPool.open(config, 3, directory / "environment") as pool:
        yield pool


@contextlib.asynccontextmanager
async def scripted(directory: Path, *script: Any) -> AsyncIterator[tuple[ScriptedEpisode, EpisodeAccess, Counted]]:
    """Serves one episode with scripted answers at a worker's own endpoint."""
    episode, counted = ScriptedEpisode(*script), Counted()
    async with serve(episode, counted, directory) as endpoint:
        yield episode, EpisodeAccess(endpoint.url, str(endpoint.socket), KEY, "policy", [1]), counted

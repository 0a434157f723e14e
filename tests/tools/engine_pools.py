"""Pools in front of scripted engines, and what they have reported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from rollout.config import WorkerConfig
from rollout.engine.observer import Failure, ReplicaState
from rollout.engine.pool import EnginePool
from rollout.versions.verifier import Version
from tests.tools.fleet_peers import ScriptedEngine, until

_LETTERS = "abcdefghijklmnop"


def decode(ids: Sequence[int]) -> str:
    """Writes each id as a letter."""
    return "".join(_LETTERS[token] for token in ids)


class Observed:
    """What a pool has reported."""

    def __init__(self) -> None:
        self.states: list[ReplicaState] = []
        self.failures: list[Failure] = []

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        self.states.append(state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        pass

    def request_failed(self, engine: int, failure: Failure) -> None:
        self.failures.append(failure)


@contextlib.asynccontextmanager
async def serving(
    directory: Path,
    servers: ScriptedEngine | Sequence[ScriptedEngine],
    observed: Observed,
    adapter: str | None = None,
    **settings: Any,
) -> AsyncIterator[EnginePool]:
    """A pool in front of servers, all of which serve version 3, full or an adapter; further settings of ``engine``."""
    servers = [servers] if isinstance(servers, ScriptedEngine) else servers
    (directory / "manifest.json").write_text("{}")
    engine = {"urls": [server.url for server in servers], "request_timeout_s": 60.0, **settings}
    places = dict.fromkeys(("model", "state_dir", "log_dir"), directory)
    fixed = {"gateway": "127.0.0.1:1", "allowed_uris": [directory.as_uri()], "engine": engine}
    config = WorkerConfig.parse({**fixed, **places}, source="test")
    async with EnginePool.open(config, 16, observed, decode) as pool:
        running = asyncio.create_task(pool.run())
        try:
            await pool.load(Version(3, directory, adapter))
            await until(lambda: pool.serving() == len(servers), "engines")
            yield pool
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

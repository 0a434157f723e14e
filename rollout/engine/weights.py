"""Loads published weights into one SGLang server, and reads which it has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from rollout.engine.calls import ServerCalls
from rollout.engine.errors import EngineError, RefusedError, UnattributedError

RefitMode = Literal["drain", "in_place", "retract"]


class ServerWeights:
    """The weights of one server.

    Args:
        calls: to the server.
        timeout_s: limit of one refit.
    """

    def __init__(self, calls: ServerCalls, timeout_s: float) -> None:
        self._calls = calls
        self._timeout_s = timeout_s

    async def refit(self, version: int, path: Path, mode: RefitMode) -> float:
        """Loads the weights in a directory and labels them. Returns the seconds it took.

        Args:
            version: the label.
            path: directory of the weights, which the server can read.
            mode: "drain": running requests end first, under the old weights, and new ones wait. "in_place": running requests
                continue with the new weights and their old KV cache (start the server with --disable-radix-cache, or cached
                prefixes stay old for ever). "retract": running requests continue with their KV cache recomputed under the
                new weights, so that only their tokens come from the old ones.

        Raises:
            EngineError: it failed, and the server's weights are unknown: restart it.
        """
        started = time.monotonic()
        try:
            try:
                await self._load(version, path, mode)
            except RefusedError:
                if mode != "drain":
                    raise
                # Health probes do not pass the drain gate: one under way kept the server from dropping its cache.
                await self._load(version, path, "retract")
        except RefusedError as error:
            raise EngineError(f"refit to version {version} failed: {error}") from error
        if (label := await self.label()) != str(version):
            raise EngineError(f"{self._calls.url}: weight_version is {label!r} after the refit to version {version}")
        return time.monotonic() - started

    async def label(self) -> str:
        """Reads the label of the server's weights; "default" before the first refit.

        Raises:
            EngineError: the server did not answer.
            UnattributedError: it has no labels.
        """
        status, info = await self._calls.get("/model_info", 10)
        if status != 200 or not isinstance(info, dict):
            raise EngineError(f"{self._calls.url}/model_info: HTTP {status}: {info!r:.500}", "status")
        if info.get("weight_version") is None:
            raise UnattributedError(self._calls.url, "weight_version at /model_info")
        return str(info["weight_version"])

    async def _load(self, version: int, path: Path, mode: RefitMode) -> None:
        # Cached prefixes belong to the old weights, but the cache cannot be dropped under requests that use it.
        update = {"model_path": str(path), "weight_version": str(version), "flush_cache": mode != "in_place"}
        if mode != "drain":
            await self._calls.post("/pause_generation", {"mode": mode}, self._timeout_s)
        try:
            await self._calls.post("/update_weights_from_disk", update, self._timeout_s)
        finally:
            if mode != "drain":
                await self._calls.post("/continue_generation", {}, self._timeout_s)

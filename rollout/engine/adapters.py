"""Adapters beside one server's model: loaded while it generates, used by what is asked from then on, unloaded when unused.

A response goes on with the adapter that it began with: no refit interrupts anything, and all its tokens are of the version of
its request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from rollout.engine.calls import ServerCalls
from rollout.engine.errors import EngineError, RefusedError, WeightsError
from rollout.versions.adapter_versions import named_version

_AT_ONCE = 7  # adapters with requests; SGLang batches 8 by default, the bare model included, which health probes use
_BARE = "default"  # SGLang's label of the weights that it was started with


@dataclass(frozen=True)
class AdapterLimits:
    """What a server has to be prepared for when it is started: the largest rank, and the layers that are changed."""

    rank: int
    targets: tuple[str, ...]

    @property
    def loadable(self) -> bool:
        """Whether SGLang loads adapters of these layers, and answers with them.

        It computes queries, keys and values as one layer, and gate and up as another. Of the first it makes up adapters of
        keys alone, of the second adapters of up; without those of the others it does not load, or ends at the first request.
        """
        joined = {"q_proj", "k_proj", "v_proj"}.intersection(self.targets)
        return (not joined or {"q_proj", "v_proj"} <= joined) and (
            "up_proj" not in self.targets or "gate_proj" in self.targets
        )


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter in a server: its name there, and the version that it is."""

    name: str
    version: int


def named(adapter: ServedAdapter | None) -> dict[str, Any]:
    """The part of a request that names its adapter."""
    return {} if adapter is None else {"lora_path": adapter.name}


def attributed(item: Any, adapter: ServedAdapter | None, url: str) -> Any:
    """Returns an answer, or a piece of one, with the adapter's version as the label of every token.

    A server labels tokens with its model's weights, whatever adapter is added to them.

    Args:
        item: the server's JSON; what is malformed in it is left for its reader to find.
        adapter: that of the request; None: the labels are right.
        url: the server's, for messages.

    Raises:
        WeightsError: the server's model is not the one that it was started with.
    """
    meta = item.get("meta_info") if isinstance(item, dict) else None
    if adapter is None or not isinstance(meta, dict):
        return item
    spans = [span for span in meta.get("weight_versions") or () if isinstance(span, dict)]
    labels = {
        str(one) for one in (meta.get("weight_version"), *(span.get("version") for span in spans)) if one is not None
    }
    if labels - {_BARE}:
        raise WeightsError(
            f"{url}: answered with adapter {adapter.name} on weights labelled {sorted(labels)}, not on those that it was "
            "started with",
            "restart",
        )
    relabelled = {**meta, "weight_versions": [{**span, "version": str(adapter.version)} for span in spans]}
    return {**item, "meta_info": relabelled | ({"weight_version": str(adapter.version)} if labels else {})}


class ServerAdapters:
    """The adapters of one server.

    Args:
        calls: to the server.
        timeout_s: limit of loading or unloading one.
    """

    def __init__(self, calls: ServerCalls, timeout_s: float) -> None:
        self._calls = calls
        self._timeout_s = timeout_s
        self._current: ServedAdapter | None = None
        self._requests: dict[str, int] = {}  # under way, by the name of the adapter; those that are loaded
        self._looked = False  # whether what was loaded before this object was made is in ``_requests``
        self._unused = asyncio.Event()
        self._unloading: set[asyncio.Task[None]] = set()

    async def room(self) -> None:
        """Returns when one more adapter may be loaded; it may take as long as a response does.

        While requests with too many adapters are under way, it waits for one of these to have none left: the server would
        let requests with one more wait.
        """
        while sum(count > 0 for count in self._requests.values()) >= _AT_ONCE:
            self._unused.clear()
            await self._unused.wait()

    async def load(self, adapter: ServedAdapter, path: Path) -> float:
        """Loads an adapter, which all later requests use. Returns the seconds it took. Call it when there is ``room``.

        The first one takes the place of older ones that nobody has unloaded, such as a worker that was killed.

        Args:
            adapter: it; the name says what it contains, so that one that is there already is the right one.
            path: directory of the adapter, which the server can read.

        Raises:
            EngineError: the server does not load it.
        """
        started = time.monotonic()
        body = {"lora_name": adapter.name, "lora_path": str(path)}
        try:
            await self._calls.post("/load_lora_adapter", body, self._timeout_s)
        except RefusedError as error:
            if adapter.name not in await self._loaded():
                raise EngineError(
                    f"version {adapter.version}, an adapter, was not loaded: {error}; the server's log says more; one of "
                    "engine.urls has to be started with --enable-lora, and with the run's --max-lora-rank and "
                    "--lora-target-modules; with engine.adapters = false workers merge adapters instead"
                ) from error
        self._requests.setdefault(adapter.name, 0)
        self._current = adapter
        if not self._looked:
            await self._look(adapter.version)
        self._unload_unused()
        return time.monotonic() - started

    def leave(self) -> None:
        """Has later requests use the server's model as it is."""
        self._current = None
        self._unload_unused()

    def begin(self) -> ServedAdapter | None:
        """Begins a request; returns the adapter to name in it, None for the bare model. ``end`` ends it."""
        if self._current is not None:
            self._requests[self._current.name] += 1
        return self._current

    def end(self, adapter: ServedAdapter | None) -> None:
        """Ends a request that was begun with ``adapter``."""
        if adapter is None:
            return
        self._requests[adapter.name] -= 1
        if not self._requests[adapter.name]:
            self._unused.set()
            self._unload_unused()

    async def require(self, adapter: ServedAdapter | None) -> None:
        """Raises WeightsError if the server has lost an adapter: it was started again, and refuses requests with it."""
        if adapter is not None and adapter.name not in await self._loaded():
            raise WeightsError(f"{self._calls.url}: adapter {adapter.name} is not loaded any more", "restart")

    async def _look(self, version: int) -> None:
        """Counts the adapters of earlier versions that the server has as unused. Later ones are another worker's."""
        for name in await self._loaded():
            own = named_version(name)
            if own is not None and own < version:
                self._requests.setdefault(name, 0)
        self._looked = True

    async def _loaded(self) -> set[str]:
        status, answer = await self._calls.get("/v1/models", self._timeout_s)
        try:
            return {str(model["id"]) for model in answer["data"]}
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self._calls.url}/v1/models: HTTP {status}: {answer!r:.500}", "status") from error

    def _unload_unused(self) -> None:
        """Unloads what nothing uses. While one has requests the server would wait for them, and load nothing meanwhile."""
        current = None if self._current is None else self._current.name
        for name in [name for name, count in self._requests.items() if not count and name != current]:
            del self._requests[name]
            task = asyncio.create_task(self._unload(name))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def _unload(self, name: str) -> None:
        try:
            await self._calls.post("/unload_lora_adapter", {"lora_name": name}, self._timeout_s)
        except (EngineError, RefusedError) as error:  # it only takes memory; another worker may have unloaded it
            structlog.get_logger().warning("adapter not unloaded", url=self._calls.url, adapter=name, error=str(error))

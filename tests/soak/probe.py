"""Samples what a run uses: memory, descriptors and threads of every process, Redis's memory, bytes on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from learner.cli.run.run_directory import RunDirectory
from learner.queue import EmbeddedRedis

_MB = 1e6
PARTS = ("redis", "weights", "checkpoints", "metrics", "state", "logs", "config")


class Probe:
    """Samples a run from outside.

    Args:
        run: its directory.
        supervisor: process id of its `leeway up`.
    """

    def __init__(self, run: RunDirectory, supervisor: int) -> None:
        self._run = run
        self._supervisor = supervisor

    def take(self) -> dict[str, float]:
        """Returns series name -> value; memory and disk in MB. A process that ends during the sampling is left out."""
        values: dict[str, float] = {}
        for name, process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = process.memory_full_info()
                values |= {
                    f"{name}|RSS": memory.rss / _MB,
                    f"{name}|USS": memory.uss / _MB,
                    f"{name}|descriptors": process.num_fds(),
                    f"{name}|threads": process.num_threads(),
                    f"{name}|pid": process.pid,
                }
        values |= {f"disk|{part}": _bytes_below(self._run.root / part) / _MB for part in PARTS}
        return values | self._redis()

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        root = psutil.Process(self._supervisor)
        names = {row["pid"]: row["name"] for row in self._supervised()}
        seen: dict[str, int] = {}
        yield "leeway up", root
        for process in root.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                name = names.get(process.pid) or f"{self._owner(process, names)} {_kind(process)}"
                seen[name] = seen.get(name, 0) + 1
                yield (name if seen[name] == 1 else f"{name} #{seen[name]}"), process

    def _owner(self, process: psutil.Process, names: dict[int, str]) -> str:
        return next((names[parent.pid] for parent in process.parents() if parent.pid in names), "job")

    def _supervised(self) -> list[dict[str, Any]]:
        try:
            rows = json.loads(self._run.processes.read_text())
        except FileNotFoundError:
            return []
        return [row for row in rows if row["pid"]]

    def _redis(self) -> dict[str, float]:
        url = EmbeddedRedis.url_of(self._run.redis)
        if url is None:
            return {}
        try:
            with contextlib.closing(redis.Redis.from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0))) as client:
                memory: Any = client.info("memory")
                persistence: Any = client.info("persistence")
                keyspace: Any = client.info("keyspace").get("db0", {})
        except redis.RedisError:
            return {}
        return {
            "Redis|used memory": memory["used_memory"] / _MB,
            "Redis|append-only file": persistence.get("aof_current_size", 0) / _MB,
            "Redis|lasting keys": float(keyspace.get("keys", 0) - keyspace.get("expires", 0)),
        }


def _kind(process: psutil.Process) -> str:
    """Names a descendant process, from its title or its command line."""
    words = process.cmdline()
    title = words[0] if words else process.name()
    if "sglang::" in title:
        return title.partition("sglang::")[2].split()[0]
    if any("sglang" in word for word in words):
        return "engine"
    if any(word == "learner" for word in words):
        return f"rank {process.environ().get('RANK', '?')}"
    return next((word for word in ("resource_tracker", "forkserver", "spawn_main") if word in " ".join(words)), "child")


def _bytes_below(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # versions come and go
            status = path.lstat()
            total += status.st_size if not path.is_dir() else 0
    return total

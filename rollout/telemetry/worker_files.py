"""What a worker's files take on disk, and their bounds, looked after by a thread: a disk that hangs stops nothing else."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import structlog

from rollout.config import WorkerConfig
from runtime.disk import DiskWatch
from runtime.log_files import keep_small
from runtime.metric_registry import MetricRegistry
from runtime.rollout_files import rollout_files

_EVERY_S = 10.0
_KINDS = ("metrics", "rollouts", "state", "logs", "versions")


class WorkerFiles:
    """Measures a worker's files every ten seconds, and keeps its engines' logs below ``file_bytes``.

    Args:
        config: of the worker.
        registry: where what is measured is declared.
    """

    def __init__(self, config: WorkerConfig, registry: MetricRegistry) -> None:
        self._config = config
        self._versions = config.cache_dir or config.state_dir / f"{config.name}.versions"
        self.bytes: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
        self._said = False
        self._ended = threading.Event()
        self._disks = DiskWatch({"state": config.state_dir, "logs": config.log_dir, "versions": self._versions})
        registry.read_all(
            "leeway_worker_file_bytes",
            "Size of the worker's own files, by kind; versions are bounded by what engines read, all others by file_bytes "
            "and record.files. NaN where they cannot be read.",
            ("kind",),
            lambda: {(kind,): size for kind, size in dict(self.bytes).items()},
        )
        for name, text, values in (
            (
                "free",
                "Free space in the file systems of the worker's directories; NaN where there is none yet.",
                self._disks.free,
            ),
            ("size", "Size of the file systems of the worker's directories.", self._disks.size),
        ):
            registry.read_all(
                f"leeway_worker_disk_{name}_bytes",
                text,
                ("directory",),
                lambda values=values: {(one,): values.get(one, math.nan) for one in ("state", "logs", "versions")},
            )

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="files", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._disks.close()

    def look(self) -> None:
        """Shortens logs that have become long, then measures. A file that cannot be read or shortened is said once."""
        try:
            for log in self._named(self._config.log_dir):
                if log.suffix == ".log" and ".engine-" in log.name:
                    keep_small(log, self._config.file_bytes)
        except OSError as error:
            self._say("logs of engines are not kept small", error)
        metrics = self._config.metrics_dir or self._config.state_dir.parent / "metrics"
        kinds = {
            "metrics": self._named(metrics),
            "rollouts": self._recorded(),
            "state": self._named(self._config.state_dir),
            "logs": self._named(self._config.log_dir),
            "versions": (Path(parent, name) for parent, _, names in os.walk(self._versions) for name in names),
        }
        for kind, files in kinds.items():
            try:
                self.bytes[kind] = _size(files)
            except OSError as error:
                self.bytes[kind] = math.nan
                self._say(f"files of the kind {kind} are not measured", error)

    def _say(self, what: str, error: OSError) -> None:
        if not self._said:
            self._said = True
            structlog.get_logger().error(what, error=str(error))

    def _run(self) -> None:
        while True:
            self.look()
            if self._ended.wait(_EVERY_S):
                return

    def _recorded(self) -> Iterator[Path]:
        if self._config.record_dir.is_dir():
            for file in rollout_files(self._config.record_dir, self._config.name):
                yield file.path

    def _named(self, directory: Path) -> Iterator[Path]:
        """Yields the files of the directory that are this worker's."""
        with contextlib.suppress(FileNotFoundError):
            for path in directory.iterdir():
                if path.name.startswith(f"{self._config.name}.") and path.is_file():
                    yield path


def _size(files: Iterator[Path]) -> float:
    total = 0
    for path in files:
        with contextlib.suppress(OSError):  # it has just been removed
            total += path.stat().st_size
    return float(total)

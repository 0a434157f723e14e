"""All mirrors of a run: each copies in a thread of its own, so that a slow or broken one does not stop the others.

Every rank copies its shards to all mirrors at the same time, then rank 0 completes those to which every rank could. A mirror
that fails, or is not done within its ``wait_s``, is left out of this version's announcement and tried again with the next
version. What it has begun by then ends by itself: until it has, the mirror is busy and is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import structlog

from learner.config import MirrorConfig
from learner.publish.mirror import Mirror
from learner.publish.rank_group import RankGroup
from learner.storage.fence import DirectoryFence
from runtime.version_format.names import version_name


@dataclass(frozen=True)
class MirrorOutcome:
    """What became of a version in a mirror.

    Attributes:
        mirror: its name.
        version: the version.
        stage: copy: the version was to be copied there; remove: versions that need not stay were to be removed there.
        uri: the copy, once it is complete; None if it failed.
        size: bytes of the version's files.
        seconds: that it took.
        error: why it failed; empty if it did not.
    """

    mirror: str
    version: int
    stage: Literal["copy", "remove"]
    uri: str | None
    size: int
    seconds: float
    error: str = ""


class Mirrors:
    """The mirrors of one rank.

    Args:
        configs: of each mirror.
        fence: fence of the directory of versions.
        group: the ranks.
    """

    def __init__(self, configs: Sequence[MirrorConfig], fence: DirectoryFence, group: RankGroup) -> None:
        self._fence = fence
        self._group = group
        self._lanes = [_Lane(Mirror(config, fence)) for config in configs]

    def copy(self, version: int, shards: set[str], own: set[str]) -> list[MirrorOutcome]:
        """Copies a version that is complete on disk to every mirror. Collective.

        Args:
            version: the version.
            shards: names of all ranks' files.
            own: names of this rank's among them.

        Returns:
            On rank 0, what became of it in each mirror, in their order; nothing elsewhere.

        Raises:
            SupersededError: on rank 0: a newer learner has taken over.
        """
        if not self._lanes:
            return []
        started = time.monotonic()
        put = _all_at_once([(lane, partial(lane.mirror.put_files, version, own)) for lane in self._lanes], started)
        rows = self._group.gather([int(error is not None) for _, error in put])
        failed = [any(row[number] for row in rows) for number in range(len(self._lanes))]
        if self._group.rank:
            self._log_own(version, put)
            return []
        whole = [lane for lane, bad in zip(self._lanes, failed, strict=True) if not bad]
        done = iter(_all_at_once([(lane, partial(lane.mirror.complete, version, shards)) for lane in whole], started))
        outcomes: list[MirrorOutcome] = []
        size = _size(self._fence, version)
        for lane, bad, (_, error) in zip(self._lanes, failed, put, strict=True):
            uri, error = (None, error or OSError("another rank failed: its log says why")) if bad else next(done)
            text = "" if error is None else str(error)
            seconds = time.monotonic() - started
            outcomes.append(MirrorOutcome(lane.mirror.name, version, "copy", uri, size, seconds, text))
        return outcomes

    def retain(self, kept: set[int], newest: int) -> list[MirrorOutcome]:
        """Removes versions up to ``newest`` that are not in ``kept`` from every mirror; returns what failed (rank 0).

        Raises:
            SupersededError: a newer learner has taken over.
        """
        started = time.monotonic()
        results = _all_at_once([(lane, partial(lane.mirror.retain, kept, newest)) for lane in self._lanes], started)
        return [
            MirrorOutcome(lane.mirror.name, newest, "remove", None, 0, time.monotonic() - started, str(error))
            for lane, (_, error) in zip(self._lanes, results, strict=True)
            if error is not None
        ]

    def _log_own(self, version: int, put: Sequence[tuple[Any, Exception | None]]) -> None:
        for lane, (_, error) in zip(self._lanes, put, strict=True):
            if error is not None:
                structlog.get_logger().error(
                    "this rank could not copy its part of a version to a mirror",
                    mirror=lane.mirror.name, version=version, error=str(error),
                )  # fmt: skip


class _Lane:
    """A mirror, and the thread that works for it."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._thread: threading.Thread | None = None
        self._results: list[tuple[Any, Exception | None]] = []

    def begin(self, action: Callable[[], Any]) -> bool:
        """Starts an action; False if the one before it has not ended."""
        if self._thread is not None and self._thread.is_alive():
            return False
        result: list[tuple[Any, Exception | None]] = []

        def run() -> None:
            try:
                result.append((action(), None))
            except Exception as error:  # noqa: BLE001 - handed to the caller: an outcome, or raised there
                result.append((None, error))

        self._thread = threading.Thread(target=run, name=f"mirror-{self.mirror.name}", daemon=True)
        self._results = result
        self._thread.start()
        return True

    def end(self, deadline: float) -> tuple[Any, Exception | None]:
        """Waits for the action; returns its result, or why there is none. ``deadline``: monotonic seconds.

        Raises:
            SupersededError: a newer learner has taken over.
        """
        assert self._thread is not None
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            return None, OSError(f"not done within wait_s = {self.mirror.wait_s:g}; it is left out until it is")
        [(value, error)] = self._results
        if error is not None and not isinstance(error, OSError):
            raise error
        return value, error


def _all_at_once(
    actions: Sequence[tuple[_Lane, Callable[[], Any]]], started: float
) -> list[tuple[Any, Exception | None]]:
    """Runs each lane's action at the same time; returns value or error of each, in order. Raises what is no OSError."""
    begun = [lane.begin(action) for lane, action in actions]
    busy = OSError("busy: what it began for an earlier version has not ended")
    return [
        lane.end(started + lane.mirror.wait_s) if new else (None, busy)
        for new, (lane, _) in zip(begun, actions, strict=True)
    ]


def _size(fence: DirectoryFence, version: int) -> int:
    return sum(path.stat().st_size for path in (fence.root / version_name(version)).iterdir())

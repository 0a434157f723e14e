"""Publication of policy versions in the background, as Hugging Face directories whose every file can be verified.

Training copies its weights to host memory, or begins to, and goes on; it never waits for a publication. When publishing takes
longer than the steps between two versions, the newest snapshot is published as soon as the publisher is free, and those
between are never published (learner.publish.coalescing). What a version consists of, and in which order it is written, is in
learner.publish.version_writer.

With ``full_every`` n only every n-th version is full; those between store what changed since the version before them
(learner.publish.delta_writer), and their manifests say what applying them yields. The first version of a learner, and the
one after a failed publication, are full.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from learner.config import LoraConfig, PublishConfig
from learner.publish.coalescing import Coalescer, Decision, HeldSnapshots, Snapshot
from learner.publish.mirrors import MirrorOutcome, Mirrors
from learner.publish.rank_group import RankGroup
from learner.publish.retention import Versions, remove_expired
from learner.publish.shard_source import ShardSource
from learner.publish.version_writer import VersionWriter
from learner.storage.fence import DirectoryFence, SupersededError
from leeway.v1 import rollout_pb2

_LOOP_S = 1800.0  # limit of a message between training loops; the watchdog ends a rank that hangs long before
_WRITE_S = 3600.0  # the longest that one rank may need for its part of a version, transfers excluded
_TICK_S = 1.0


class PublicationCallbacks(Protocol):
    """What the publisher needs of the rest of rank 0."""

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        """Makes a version, now complete on disk, known to the fleets. ``seconds``: how long the publication took."""
        ...

    def not_published(self, version: int, error: Exception) -> None:
        """Records that a version could not be written; the one before it stays current."""
        ...

    def coalesced(self, step: int, replaced: int) -> None:
        """Records that the weights after step ``replaced`` are never published: those after ``step`` took their place."""
        ...

    def mirrored(self, outcomes: Sequence[MirrorOutcome]) -> None:
        """Records what became of a version in the mirrors."""
        ...

    def in_use(self) -> set[int]:
        """Versions that must not be removed: fleets run them, or training still needs them."""
        ...


class Publisher:
    """Publishes versions in the background, one at a time. Every rank makes one and calls it in step.

    Args:
        config: directory, dtype, retention and mirrors of versions.
        fence: fence of the directory of versions; rank 0 has acquired it before.
        model: Hugging Face directory that config and tokenizer files are copied from.
        next_version: number of the first version; equal on every rank.
        callbacks: rank 0 only, None elsewhere.
        lora: of the adapters, where they are what is published (``config.form``).

    Attributes:
        version: the newest version handed to publication; ``next_version`` - 1 before the first.
        published_step: its step; None before the first.
    """

    def __init__(
        self,
        config: PublishConfig,
        fence: DirectoryFence,
        model: Path,
        next_version: int,
        callbacks: PublicationCallbacks | None,
        lora: LoraConfig | None = None,
    ) -> None:
        self.version = next_version - 1
        self.published_step: int | None = None
        self._config = config
        self._fence = fence
        self._callbacks = callbacks
        self._wait_s = _WRITE_S + 3 * max((mirror.wait_s for mirror in config.mirror), default=0.0)
        self._loops = RankGroup(_LOOP_S)
        self._threads = RankGroup(self._wait_s)
        self._mirrors = Mirrors(config.mirror, fence, self._threads)
        self._writer = VersionWriter(config, fence, model, self._threads, self._mirrors, lora)
        self._coalescer = Coalescer(self.version) if callbacks is not None else None
        self._held = HeldSnapshots()
        self._ticket = 0
        self._failed: set[int] = set()  # rank 0: versions that were never announced
        self._failure: Exception | None = None
        self._starts: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._busy = 0  # starts whose last publication has not ended
        self._changed = threading.Condition()
        self._loops.barrier()
        threading.Thread(target=self._serve, name="publisher", daemon=True).start()

    def configure(self, config: PublishConfig) -> None:
        """Takes another retention between two steps; what versions are written like must stay what it is."""
        self._config = config

    def publish(self, step: int, export: Callable[[int], ShardSource]) -> None:
        """Hands over the weights after ``step``. Collective; waits for no publication.

        Args:
            step: optimizer steps that went into the weights.
            export: given the version's number, takes this rank's part of the weights. It is called once, when the memory of
                the snapshot that this one replaces is free again.

        Raises:
            SupersededError: a newer learner has taken over (rank 0).
            Exception: what the callbacks raised: the version is on disk and no fleet knows it (rank 0).
        """
        self._raise_failure()
        self.published_step = step
        ticket = self._ticket
        self._ticket += 1
        decision = self._coalescer.offer(ticket, step) if self._coalescer else Decision(0, 0, None)
        self.version, running = self._loops.agree([decision.version, decision.running])
        self._held.drop_all_but(running)
        self._held.add(Snapshot(ticket, self.version, step, export(self.version)))
        if running == ticket:
            with self._changed:
                self._busy += 1
            self._starts.put(ticket)
        if self._callbacks is not None and decision.replaced is not None:
            self._callbacks.coalesced(step, decision.replaced)

    def wait(self, timeout_s: float | None = None, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Waits until the newest snapshot is published.

        Args:
            timeout_s: seconds after which it is given up, to be cut short by the end of the process: the version before it
                stays current, and what was written of it is removed when the next learner takes over.
            while_waiting: called about once a second.

        Raises:
            SupersededError: a newer learner has taken over (rank 0).
            Exception: what the callbacks raised: the version is on disk and no fleet knows it (rank 0).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._busy:
                left = _TICK_S if deadline is None else min(_TICK_S, deadline - time.monotonic())
                if left <= 0:
                    structlog.get_logger().warning("publication given up: no time left", version=self.version)
                    break
                self._changed.wait(left)
                while_waiting()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _serve(self) -> None:
        """Publishes what ``publish`` starts, and then what has come to wait meanwhile: this rank's publisher thread."""
        while True:
            ticket: int | None = self._starts.get()
            try:
                while ticket is not None:
                    self._publish(self._held.take(ticket, self._wait_s))
                    ticket = self._threads.agree_number(self._coalescer.next() if self._coalescer else None)
            except Exception as error:  # noqa: BLE001 - the end of this thread's work; raised in the loop
                structlog.get_logger().error("publisher ended on this rank", error=f"{type(error).__name__}: {error}")
                self._failure = error
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _publish(self, snapshot: Snapshot) -> None:
        """Publishes a version; what goes wrong on rank 0 is reported, or raised in the loop. Collective."""
        started = time.monotonic()
        try:
            policy = self._writer.write(snapshot)
        except OSError as error:
            assert self._callbacks is not None
            self._failed.add(snapshot.version)
            self._callbacks.not_published(snapshot.version, error)
            return
        except SupersededError as error:
            self._failure = error
            return
        if self._callbacks is None or policy is None:
            return
        try:
            self._callbacks.mirrored(self._writer.outcomes)
            self._callbacks.published(policy, time.monotonic() - started)
            self._retain(snapshot.version, self._callbacks.in_use())
        except Exception as error:  # noqa: BLE001 - raised in the loop by publish() or wait()
            self._failure = error

    def _retain(self, newest: int, in_use: set[int]) -> None:
        try:
            kept = remove_expired(self._fence, self._config, Versions(newest, in_use, self._failed))
        except FileNotFoundError:
            return  # a newer learner has taken over: what is kept is its decision
        except OSError as error:
            structlog.get_logger().warning("old versions not removed; tried again after the next", error=str(error))
            return
        if self._callbacks is not None:
            self._callbacks.mirrored(self._mirrors.retain(kept, newest))

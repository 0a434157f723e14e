"""Collects the groups of a training step: rank 0 takes them from the queue and broadcasts them to every rank."""

from __future__ import annotations

import enum
import json
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from learner.config import LearnerConfig
from learner.intake.wait_log import WaitLog
from learner.queue import GroupRef, LearnerQueue, StillAwayError
from leeway.v1 import rollout_pb2 as pb
from runtime.errors import LeewayError
from runtime.response_spans import spans_of

_POLL_S = 0.004
_PATIENCE_S = 2.0  # how long the queue may wait for Redis in one call: its outage is no reason to miss a heartbeat
_HEARTBEAT_S = 5.0  # the other ranks wait in a collective, which must complete well within its timeout


class IntakeError(LeewayError):
    """No full batch of groups came within take_timeout_s."""


class Command(enum.IntEnum):
    """Instruction in the first byte of each of rank 0's broadcasts."""

    WAIT = 0
    TRAIN = 1
    STOP = 2
    FAIL = 3


@dataclass(frozen=True)
class TakenBatch:
    """The groups of one training step.

    Attributes:
        groups: the groups, equal on every rank.
        refs: one reference per group, in the same order, on rank 0; empty elsewhere.
        staleness: optimizer steps by which each version in the groups' spans is older than the step.
        fleets: who submitted each group, in the same order, equal on every rank.
    """

    groups: list[pb.Group]
    refs: list[GroupRef]
    staleness: dict[int, int]
    fleets: list[str]

    def without(self, groups: Collection[int]) -> TakenBatch:
        """Returns the batch without some of its groups, given by their indices."""
        kept = [index for index in range(len(self.groups)) if index not in groups]
        return replace(
            self,
            groups=[self.groups[index] for index in kept],
            refs=[self.refs[index] for index in kept] if self.refs else [],
            fleets=[self.fleets[index] for index in kept],
        )


class BatchSource:
    """Feeds the groups of one queue to all ranks.

    Args:
        config: batch size, the staleness at which groups expire, and the artificial staleness (hold_staleness) that studies
            set.
        queue: the queue on rank 0, None elsewhere.
        broadcast: collective; sends rank 0's bytes to every rank and returns them.
        stopping: asked on rank 0 before every wait; True ends the run cleanly.
        report_progress: called on every rank at least every few seconds while it waits, since waiting for groups is no hang.
        pause: sleeps a moment before the queue is asked again.
    """

    def __init__(
        self,
        config: LearnerConfig,
        queue: LearnerQueue | None,
        broadcast: Callable[[bytes | None], bytes],
        stopping: Callable[[], bool],
        report_progress: Callable[[], None] = lambda: None,
        pause: Callable[[], None] = lambda: time.sleep(_POLL_S),
    ) -> None:
        self._config = config
        self._queue = queue
        self._broadcast = broadcast
        self._stopping = stopping
        self._report_progress = report_progress
        self._pause = pause
        self._collected: list[tuple[GroupRef, pb.Group]] = []

    def take(self, step: int) -> TakenBatch | None:
        """Blocks until the batch of optimizer step ``step`` (0-based) is complete. Collective.

        Returns:
            The batch; None if the run is to stop.

        Raises:
            IntakeError: on every rank, when no full batch came within take_timeout_s, if that is set.
        """
        waits = WaitLog(self._config.groups_per_step)
        while True:
            self._report_progress()
            message = self._next(step, waits) if self._queue else None
            received = self._broadcast(message)
            command = Command(received[0])
            self._report_progress()
            if command is Command.TRAIN:
                return self._unpack(received)
            if command is Command.STOP:
                return None
            if command is Command.FAIL:
                raise IntakeError(
                    f"no batch of {self._config.groups_per_step} groups came in {self._config.take_timeout_s:g} s "
                    "(take_timeout_s): are the fleets running?"
                )

    def _next(self, step: int, waits: WaitLog) -> bytes:
        """Waits on rank 0 for what to broadcast next: the batch, a stop, a failure, or after 5 s a sign of life."""
        heartbeat = time.monotonic() + _HEARTBEAT_S
        while True:
            if self._stopping():
                return bytes([Command.STOP])
            if self._fill(step):
                fleets = [ref.fleet for ref, _ in self._collected]
                payloads = [json.dumps([fleets, self._staleness(step)]).encode()]
                payloads += [group.SerializeToString() for _, group in self._collected]
                frames = [struct.pack("<I", len(payload)) + payload for payload in payloads]
                return bytes([Command.TRAIN]) + b"".join(frames)
            waits.waiting(step, len(self._collected))
            limit = self._config.take_timeout_s
            if limit is not None and waits.seconds() > limit:
                return bytes([Command.FAIL])
            if time.monotonic() > heartbeat:
                return bytes([Command.WAIT])
            self._pause()

    def _fill(self, step: int) -> bool:
        """Takes from the queue what the batch still lacks; returns whether it is complete."""
        assert self._queue is not None
        try:
            with self._queue.waiting_at_most(_PATIENCE_S):
                return self._take(self._queue, step)
        except StillAwayError:
            return False

    def _take(self, queue: LearnerQueue, step: int) -> bool:
        wanted = self._config.groups_per_step
        least_waiting = (self._config.hold_staleness + 1) * wanted
        if self._config.hold_staleness and not self._collected and queue.waiting() < least_waiting:
            return False
        if len(self._collected) < wanted:
            taken = queue.take(wanted - len(self._collected), step, self._config.expiry_bound)
            self._collected += [(item.ref, item.group) for item in taken]
        return len(self._collected) >= wanted

    def _staleness(self, step: int) -> dict[int, int]:
        """Computes how many optimizer steps each version in the collected groups is behind ``step``."""
        assert self._queue is not None
        spans = (span for _, group in self._collected for response in group.responses[:] for span in spans_of(response))
        return {version: self._queue.staleness(version, step) for version in {span.version for span in spans}}

    def _unpack(self, message: bytes) -> TakenBatch:
        """Decodes a TRAIN broadcast; rank 0 returns the groups that it has collected instead."""
        frames, offset = [], 1
        while offset < len(message):
            (size,) = struct.unpack_from("<I", message, offset)
            frames.append(message[offset + 4 : offset + 4 + size])
            offset += 4 + size
        fleets, ages = json.loads(frames[0])
        staleness = {int(version): age for version, age in ages.items()}
        own, self._collected = self._collected, []
        groups = [group for _, group in own] or [pb.Group.FromString(frame) for frame in frames[1:]]
        return TakenBatch(groups, [ref for ref, _ in own], staleness, fleets)

"""What a training step is fed: rank 0 takes groups from the queue, every rank gets the same ones."""

from __future__ import annotations

import enum
import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from learner.config import LearnerConfig
from learner.queue import GroupRef, LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from runtime.errors import LeewayError

_POLL_S = 0.004
_HEARTBEAT_S = 5.0  # other ranks wait in a collective: it must complete well within its timeout


class IntakeError(LeewayError):
    """No full batch came for longer than take_timeout_s."""


class Command(enum.IntEnum):
    """What rank 0 tells the others to do next."""

    WAIT = 0
    TRAIN = 1
    STOP = 2
    FAIL = 3


@dataclass(frozen=True)
class TakenBatch:
    """The groups of one step; ``staleness``: version -> optimizer steps. ``refs`` is empty except on rank 0."""

    groups: list[pb.Group]
    refs: list[GroupRef]
    staleness: dict[int, int]


class BatchSource:
    """Feeds all ranks from one queue.

    Args:
        config: batch size, staleness bound and the hold used by studies.
        queue: the queue on rank 0, None elsewhere.
        broadcast: collective; sends rank 0's bytes to every rank and returns them.
        stopping: asked on rank 0 before every wait; True ends the run cleanly.
        alive: called on every rank at least every few seconds while it waits: waiting for groups is no hang.
        pause: sleeps a moment before the queue is asked again.
    """

    def __init__(
        self,
        config: LearnerConfig,
        queue: LearnerQueue | None,
        broadcast: Callable[[bytes | None], bytes],
        stopping: Callable[[], bool],
        alive: Callable[[], None] = lambda: None,
        pause: Callable[[], None] = lambda: time.sleep(_POLL_S),
    ) -> None:
        self._config = config
        self._queue = queue
        self._broadcast = broadcast
        self._stopping = stopping
        self._alive = alive
        self._pause = pause
        self._held: list[tuple[GroupRef, pb.Group]] = []

    def take(self, step: int) -> TakenBatch | None:
        """Blocks until a full batch is there. Collective. None: stop.

        Raises:
            IntakeError: on every rank, when no full batch came within take_timeout_s.
        """
        deadline = time.monotonic() + self._config.take_timeout_s
        while True:
            self._alive()
            message = self._next(step, deadline) if self._queue else None
            received = self._broadcast(message)
            command = Command(received[0])
            self._alive()
            if command is Command.TRAIN:
                return self._unpack(received)
            if command is Command.STOP:
                return None
            if command is Command.FAIL:
                raise IntakeError(
                    f"no batch of {self._config.groups_per_step} groups came in {self._config.take_timeout_s:.0f} s "
                    "(take_timeout_s): are the fleets running?"
                )

    def _next(self, step: int, deadline: float) -> bytes:
        heartbeat = time.monotonic() + _HEARTBEAT_S
        while True:
            if self._stopping():
                return bytes([Command.STOP])
            if self._fill(step):
                payloads = [json.dumps(self._ages(step)).encode()]
                payloads += [group.SerializeToString() for _, group in self._held]
                frames = [struct.pack("<I", len(payload)) + payload for payload in payloads]
                return bytes([Command.TRAIN]) + b"".join(frames)
            now = time.monotonic()
            if now > deadline:
                return bytes([Command.FAIL])
            if now > heartbeat:
                return bytes([Command.WAIT])
            self._pause()

    def _fill(self, step: int) -> bool:
        assert self._queue is not None
        wanted = self._config.groups_per_step
        held_back = (self._config.hold_staleness + 1) * wanted
        if self._config.hold_staleness and not self._held and self._queue.waiting() < held_back:
            return False
        if len(self._held) < wanted:
            taken = self._queue.take(wanted - len(self._held), step, self._config.max_staleness)
            self._held += [(item.ref, item.group) for item in taken]
        return len(self._held) >= wanted

    def _ages(self, step: int) -> dict[int, int]:
        assert self._queue is not None
        spans = (span for _, group in self._held for response in group.responses[:] for span in response.spans[:])
        return {version: self._queue.staleness(version, step) for version in {span.version for span in spans}}

    def _unpack(self, message: bytes) -> TakenBatch:
        frames, offset = [], 1
        while offset < len(message):
            (size,) = struct.unpack_from("<I", message, offset)
            frames.append(message[offset + 4 : offset + 4 + size])
            offset += 4 + size
        staleness = {int(version): age for version, age in json.loads(frames[0]).items()}
        held, self._held = self._held, []
        groups = [group for _, group in held] or [pb.Group.FromString(frame) for frame in frames[1:]]
        return TakenBatch(groups, [ref for ref, _ in held], staleness)

"""Collects the groups of a training step: rank 0 takes them from the queue and broadcasts them to every rank."""

from __future__ import annotations

import enum
import json
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from learner.config import LearnerConfig
from learner.intake.step_groups import Ending, StepGroups
from learner.intake.wait_log import WaitLog
from learner.queue import GroupRef
from leeway.v1 import rollout_pb2 as pb
from runtime.errors import LeewayError

_POLL_S = 0.004
_HEARTBEAT_S = 5.0  # the other ranks wait in a collective, which must complete well within its timeout


class IntakeError(LeewayError):
    """No full batch of groups came within take_timeout_s."""


class InterruptedTake(Exception):
    """The wait for groups was interrupted, because operators' changes wait; the next take goes on with it."""


class Command(enum.IntEnum):
    """Instruction in the first byte of each of rank 0's broadcasts."""

    WAIT = 0
    TRAIN = 1
    STOP = 2
    FAIL = 3
    LOOK = 4


@dataclass(frozen=True)
class TakenBatch:
    """The groups of one training step.

    Attributes:
        groups: the groups, equal on every rank: first those that count towards the step.
        refs: one reference per group, in the same order, on rank 0; empty elsewhere.
        staleness: optimizer steps by which each version in the groups' spans is older than the step.
        fleets: who submitted each group, in the same order, equal on every rank.
        uncounted: how many of the groups, the last ones, do not count, since nothing of them is trained: others were taken in
            their place, and they have no token ids any more. 0 without refill.
        ending: why the step takes no more groups.
    """

    groups: list[pb.Group]
    refs: list[GroupRef]
    staleness: dict[int, int]
    fleets: list[str]
    uncounted: int = 0
    ending: Ending = "full"

    @property
    def counted(self) -> list[pb.Group]:
        """The groups that count towards the step: its prompts, in every denominator of the loss."""
        return self.groups[: len(self.groups) - self.uncounted]

    def without(self, groups: Collection[int]) -> TakenBatch:
        """Returns the batch without some of the groups that count, given by their indices."""
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
        config: batch size and limit of waiting.
        collector: takes the groups of a step from the queue, on rank 0; None elsewhere.
        broadcast: collective; sends rank 0's bytes to every rank and returns them.
        stopping: asked on rank 0 before every wait; True ends the run cleanly.
        report_progress: called on every rank at least every few seconds while it waits, since waiting for groups is no hang.
        pause: sleeps a moment before the queue is asked again.

    Attributes:
        looking: asked on rank 0 before every wait; True interrupts the take, and the groups so far stay collected.
    """

    def __init__(
        self,
        config: LearnerConfig,
        collector: StepGroups | None,
        broadcast: Callable[[bytes | None], bytes],
        stopping: Callable[[], bool],
        report_progress: Callable[[], None] = lambda: None,
        pause: Callable[[], None] = lambda: time.sleep(_POLL_S),
    ) -> None:
        self.looking: Callable[[], bool] = lambda: False
        self._config = config
        self._collector = collector
        self._broadcast = broadcast
        self._stopping = stopping
        self._report_progress = report_progress
        self._pause = pause
        self._paused = False
        self._waits: WaitLog | None = None  # of the batch that is waited for, over interruptions too
        self._own: list[tuple[GroupRef, pb.Group]] = []  # what was broadcast last, on rank 0

    def pause(self, paused: bool) -> None:
        """Takes nothing more from the queue, or goes on; the time between does not count as waiting for groups."""
        if self._paused and not paused and self._waits is not None:
            self._waits.begin_again()
        self._paused = paused

    def take(self, step: int) -> TakenBatch | None:
        """Blocks until the batch of optimizer step ``step`` (0-based) is complete. Collective.

        Returns:
            The batch; None if the run is to stop.

        Raises:
            InterruptedTake: on every rank, when ``looking`` says so.
            IntakeError: on every rank, when no full batch came within take_timeout_s, if that is set.
        """
        waits = self._waits = self._waits or WaitLog(self._config.groups_per_step)
        while True:
            self._report_progress()
            message = self._next(self._collector, step, waits) if self._collector is not None else None
            received = self._broadcast(message)
            command = Command(received[0])
            self._report_progress()
            if command not in (Command.WAIT, Command.LOOK):
                self._waits = None
            if command is Command.TRAIN:
                return self._unpack(received)
            if command is Command.STOP:
                return None
            if command is Command.LOOK:
                raise InterruptedTake
            if command is Command.FAIL:
                raise IntakeError(
                    f"no batch of {self._config.groups_per_step} groups came in {self._config.take_timeout_s:g} s "
                    "(take_timeout_s): are the fleets running?"
                )

    def _next(self, collector: StepGroups, step: int, waits: WaitLog) -> bytes:
        """Waits on rank 0 for what to broadcast next: the batch, a stop, a failure, or after 5 s a sign of life."""
        heartbeat = time.monotonic() + _HEARTBEAT_S
        while True:
            if self._stopping():
                return bytes([Command.STOP])
            if self.looking():
                return bytes([Command.LOOK])
            if self._paused:
                waits.begin_again()
                if time.monotonic() > heartbeat:
                    return bytes([Command.WAIT])
                self._pause()
                continue
            before = len(collector)
            ending = collector.collect(step)
            limit = self._config.take_timeout_s
            if ending is None and limit is not None and waits.seconds() > limit:
                if not collector.cut_short():
                    return bytes([Command.FAIL])
                ending = "timeout"
            if ending is not None:
                return self._pack(collector, step, ending)
            if time.monotonic() > heartbeat:
                return bytes([Command.WAIT])
            if len(collector) == before:
                waits.waiting(step, collector.counted)
                self._pause()

    def _pack(self, collector: StepGroups, step: int, ending: Ending) -> bytes:
        """Encodes the collected groups as a TRAIN broadcast."""
        self._own, uncounted = collector.hand_over()
        header = {
            "fleets": [ref.fleet for ref, _ in self._own],
            "staleness": collector.staleness(step, [group for _, group in self._own]),
            "uncounted": uncounted,
            "ending": ending,
        }
        payloads = [json.dumps(header).encode(), *(group.SerializeToString() for _, group in self._own)]
        frames = [struct.pack("<I", len(payload)) + payload for payload in payloads]
        return bytes([Command.TRAIN]) + b"".join(frames)

    def _unpack(self, message: bytes) -> TakenBatch:
        """Decodes a TRAIN broadcast; rank 0 returns the groups that it has collected instead."""
        frames, offset = [], 1
        while offset < len(message):
            (size,) = struct.unpack_from("<I", message, offset)
            frames.append(message[offset + 4 : offset + 4 + size])
            offset += 4 + size
        header = json.loads(frames[0])
        staleness = {int(version): age for version, age in header["staleness"].items()}
        own, self._own = self._own, []
        groups = [group for _, group in own] or [pb.Group.FromString(frame) for frame in frames[1:]]
        refs = [ref for ref, _ in own]
        return TakenBatch(groups, refs, staleness, header["fleets"], header["uncounted"], header["ending"])

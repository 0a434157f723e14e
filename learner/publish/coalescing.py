"""Which snapshot of the weights is published next, when publication is slower than training.

One snapshot is published at a time and one waits; a newer snapshot replaces the one that waits. So the newest weights are
published as soon as the publisher is free, and no rank holds more than two snapshots: the one that waits is let go before a
newer one is copied. Rank 0 decides. Its publisher may take
the waiting snapshot while another rank has already reached the next one: snapshots therefore have tickets, which count the
calls of ``publish`` and are equal on every rank, and rank 0 tells the others which ticket must stay.

The number of a version that waits goes to the snapshot that replaces it: numbers have no gaps but those of failures.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from learner.publish.shard_source import ShardSource


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of the weights after a step.

    Attributes:
        ticket: count of the snapshots handed over before it; equal on every rank.
        version: number that it is published under, if it is.
        step: optimizer steps that went into the weights.
        source: what this rank writes.
    """

    ticket: int
    version: int
    step: int
    source: ShardSource


@dataclass(frozen=True)
class Decision:
    """What rank 0 decided about a new snapshot.

    Attributes:
        version: the snapshot's number.
        running: ticket of the snapshot that is published now; the new one's own if it begins at once.
        replaced: step of the snapshot that it replaces and that is never published; None if none waited.
    """

    version: int
    running: int
    replaced: int | None


class Coalescer:
    """Rank 0's decisions. ``offer`` is called by the training loop, ``next`` by the publisher's thread.

    Args:
        version: number of the version before the first.
    """

    def __init__(self, version: int) -> None:
        self._version = version
        self._lock = threading.Lock()
        self._running: int | None = None
        self._waiting: tuple[int, int] | None = None  # ticket, step

    def offer(self, ticket: int, step: int) -> Decision:
        """Takes a new snapshot: it is published now, or waits and replaces the one that waited."""
        with self._lock:
            if self._running is None:
                self._version += 1
                self._running = ticket
                return Decision(self._version, ticket, None)
            replaced = self._waiting
            if replaced is None:
                self._version += 1
            self._waiting = (ticket, step)
            return Decision(self._version, self._running, replaced[1] if replaced else None)

    def next(self) -> int | None:
        """Ends the publication under way; returns the ticket of the one to begin now, None if no snapshot waits."""
        with self._lock:
            self._running = self._waiting[0] if self._waiting else None
            self._waiting = None
            return self._running


class HeldSnapshots:
    """One rank's snapshots that have not been published yet: at most the one that is due now, and the newest."""

    def __init__(self) -> None:
        self._held: dict[int, Snapshot] = {}
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._held)

    def drop_all_but(self, running: int) -> None:
        """Lets go of the snapshots but the one with the ticket ``running``: they are never published."""
        with self._changed:
            dropped = [self._held.pop(ticket) for ticket in list(self._held) if ticket != running]
        for snapshot in dropped:
            snapshot.source.release()

    def add(self, snapshot: Snapshot) -> None:
        """Adds the newest snapshot."""
        with self._changed:
            self._held[snapshot.ticket] = snapshot
            self._changed.notify_all()

    def take(self, ticket: int, timeout_s: float) -> Snapshot:
        """Removes and returns a snapshot; waits for this rank's training loop, which may not have handed it over yet.

        Raises:
            TimeoutError: it was not added within ``timeout_s``.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: ticket in self._held, timeout_s):
                raise TimeoutError(f"this rank has not handed over snapshot {ticket} for {timeout_s:g} s")
            return self._held.pop(ticket)

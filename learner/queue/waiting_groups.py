"""Reads the groups that wait for the learner, and takes none of them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.entries import GroupRef
from learner.queue.keys import GROUP, Keys

_PAGE = 100  # entries read at once


class WaitingGroups:
    """A reader of the groups that wait in a run's queue. Every method raises QueueError when Redis cannot be used.

    Args:
        config: where the queue is.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._client = connect(config)
        self._keys = Keys(config.run)

    def __enter__(self) -> WaitingGroups:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def newest(self, limit: int, fleet: str = "") -> list[GroupRef]:
        """Finds the groups that the learner has not taken, newest first, without their content.

        Args:
            limit: the most to return.
            fleet: only groups of this fleet; "": of all.
        """
        with translated():
            known: Any = self._client.smembers(self._keys.fleets)
            fleets = sorted(name.decode() for name in known)
            chosen = [one for one in fleets if fleet in ("", one)]
            waiting = heapq.merge(*map(self._of, chosen), key=lambda one: _position(one.entry_id), reverse=True)
            return list(itertools.islice(waiting, limit))

    def payload(self, ref: GroupRef) -> bytes | None:
        """Reads the content of a group; None if it has left the queue meanwhile."""
        with translated():
            stored: Any = self._client.get(self._keys.payload(ref.fleet, ref.group_id))
        return stored

    def _of(self, fleet: str) -> Iterator[GroupRef]:
        """Yields a fleet's groups behind the last one that was delivered to the learner, newest first."""
        key = self._keys.stream(fleet)
        groups: Any = self._client.xinfo_groups(key)
        taken = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()), b"0-0")
        end = "+"
        while True:
            page: Any = self._client.xrevrange(key, end, f"({taken.decode()}", count=_PAGE)
            for entry_id, fields in page:
                yield GroupRef(fleet, fields[b"id"].decode(), entry_id.decode())
            if len(page) < _PAGE:
                return
            end = f"({page[-1][0].decode()}"


def _position(entry_id: str) -> tuple[int, int]:
    """An entry's place among those of all fleets: Unix milliseconds, and a number within them."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)

"""A resumable source of prompt indices: a file records which are done, so that acknowledged work is not repeated."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import MISCONFIGURED, LeewayError


class CursorError(LeewayError):
    """A cursor file that does not fit this worker. The message names the file and what to do."""

    exit_status = MISCONFIGURED


class PromptSource:
    """Hands out the indices i, i + n, i + 2n, ... of shard (i, n), until each is done.

    The file contains a watermark (the first ``watermark`` indices of the shard are all done) and the positions done above
    it; it is replaced atomically each time indices are done. After a crash, indices that were handed out and not done are
    handed out again. The file survives a crash of the process; after a crash of the machine, some that were done may be
    handed out again.

    Args:
        path: the cursor file; created when missing.
        shard: (i, n), 0 <= i < n.

    Raises:
        CursorError: the file is damaged, or was written for another shard.
    """

    def __init__(self, path: Path, shard: tuple[int, int]) -> None:
        self._path = path
        self._shard = shard
        path.parent.mkdir(parents=True, exist_ok=True)
        self._watermark, self._above = self._load()
        self._next = self._watermark
        self._returned: list[int] = []

    def take(self, count: int) -> list[int]:
        """Hands out the next ``count`` indices: returned ones first, then new ones."""
        positions = []
        while len(positions) < count:
            if self._returned:
                positions.append(heapq.heappop(self._returned))
                continue
            if self._next not in self._above:
                positions.append(self._next)
            self._next += 1
        offset, stride = self._shard
        return [offset + stride * position for position in positions]

    def give_back(self, indices: Iterable[int]) -> None:
        """Takes back indices whose work failed; they are handed out again before new ones."""
        for index in indices:
            heapq.heappush(self._returned, self._position(index))

    def done(self, indices: Iterable[int]) -> None:
        """Marks indices as done for good, and writes the file."""
        self._above.update(self._position(index) for index in indices)
        while self._watermark in self._above:
            self._above.remove(self._watermark)
            self._watermark += 1
        self._save()

    def _position(self, index: int) -> int:
        offset, stride = self._shard
        position, rest = divmod(index - offset, stride)
        if rest or position < 0:
            raise ValueError(f"index = {index}: not of shard {self._shard}")
        return position

    def _load(self) -> tuple[int, set[int]]:
        if not self._path.is_file():
            return 0, set()
        try:
            state = json.loads(self._path.read_text())
            shard, watermark, above = tuple(state["shard"]), int(state["watermark"]), set(map(int, state["done"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CursorError(
                f"{self._path}: damaged prompt cursor ({error}); delete it to start from prompt 0"
            ) from error
        if shard != self._shard:
            raise CursorError(
                f"{self._path}: written for shard = {shard}, configured is {self._shard}; restore the shard or delete it"
            )
        return watermark, above

    def _save(self) -> None:
        state = {"shard": self._shard, "watermark": self._watermark, "done": sorted(self._above)}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, self._path)

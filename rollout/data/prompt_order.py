"""The order in which one worker of a fleet asks for prompts: it depends on the worker's own name, never on their number."""

from __future__ import annotations

import re
from zlib import crc32

_BITS = 32
_ENDLESS = 1 << _BITS  # indices of one worker, where prompts never end


class PromptOrder:
    """Turns a worker's own positions 0, 1, 2, ... into prompt indices.

    A worker's number is the one at the end of its name (3 of "worker-3" or of the pod "leeway-rollout-3"), or a hash of a
    name without one. Nothing depends on how many workers there are, so that they can be added and taken away at any time,
    and nothing is agreed between them.

    Finite data: every worker goes through the whole data, pass after pass, all in the same order, each from a starting
    point of its own: worker 0 from the beginning, worker 1 from the middle, 2 and 3 from the first and the third quarter,
    and so on (the van der Corput sequence). What holds, but for prompts that are asked again after a crash:

    - A worker asks each prompt exactly once in each of its own passes. So none is left out for good, whoever goes away, and
      none is asked without end: how often two prompts were asked differs by at most the number of workers there ever were.
    - While 1, 2, 4, 8, ... workers, numbered from 0, are equally fast, together they ask every prompt once before they ask
      one again. With other numbers of workers or unequal ones, a part of the prompts comes up to a pass earlier or later.
    - A worker that is added begins at its own starting point; one that comes back with its cursor file, where it stopped.

    Endless tasks: each worker has 2^32 indices of its own, so that workers ask different prompts; worker 0 has the first.

    Args:
        worker: the worker's name.
        size: number of prompts of one pass over the data; None: endless.
    """

    def __init__(self, worker: str, size: int | None) -> None:
        digits = re.search(r"[0-9]+$", worker)
        number = (int(digits[0]) if digits else crc32(worker.encode())) % (1 << _BITS)
        self._size = size
        # The number's bits in reverse order, as a binary fraction of the size.
        self._start = number * _ENDLESS if size is None else int(f"{number:0{_BITS}b}"[::-1], 2) * size >> _BITS

    def index(self, position: int) -> int:
        """Returns the prompt index at a position >= 0 of this worker."""
        if self._size is None:
            return self._start + position
        passes, place = divmod(position, self._size)
        return passes * self._size + (self._start + place) % self._size

    def position(self, index: int) -> int:
        """Returns the position at which this worker asks for a prompt index. Raises ValueError when it never does."""
        if self._size is None:
            position = index - self._start
            if not 0 <= position < _ENDLESS:
                raise ValueError(f"index = {index}: not of this worker, whose indices begin at {self._start}")
            return position
        passes, place = divmod(index, self._size)
        return passes * self._size + (place - self._start) % self._size

"""Exponential backoff with jitter, so that many clients of one gateway do not return at the same moment."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Delays of first_s, 2 first_s, 4 first_s ... up to largest_s, each shortened by up to half at random.

    Attributes:
        failures: failures since the last ``reset``.
    """

    def __init__(self, first_s: float, largest_s: float) -> None:
        self._first = first_s
        self._largest = largest_s
        self.failures = 0

    def reset(self) -> None:
        """Starts again at ``first_s``; call it after a success."""
        self.failures = 0

    def delay(self) -> float:
        """Counts one more failure and returns the seconds to wait after it."""
        full = min(self._largest, self._first * 2 ** min(self.failures, 30))
        self.failures += 1
        return full * random.uniform(0.5, 1.0)

    async def wait(self) -> None:
        """Counts one more failure and sleeps for ``delay()`` seconds."""
        await asyncio.sleep(self.delay())

"""What callers may cost: streams in all and per fleet, calls per second. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter

from learner.config import ConnectionConfig

_BURST_S = 1.0  # a quiet fleet may catch up on so many seconds' worth of calls at once


class ExhaustedError(Exception):
    """A limit is reached. The message names it; ``retry_after_ms`` says when to come again."""

    def __init__(self, text: str, retry_after_ms: int) -> None:
        super().__init__(text)
        self.retry_after_ms = retry_after_ms


class ConnectionLimits:
    """Counts streams, and calls by token bucket, of every fleet on this gateway."""

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self._streams: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}  # fleet -> (calls left, as of when)

    def open(self, fleet: str) -> None:
        """A fleet opens a stream; ``close`` it later. Raises ExhaustedError."""
        if self._streams.total() >= self._config.max_streams:
            raise ExhaustedError(f"max_streams = {self._config.max_streams}: this gateway has no stream left", 2000)
        if self._streams[fleet] >= self._config.max_streams_per_fleet:
            raise ExhaustedError(
                f"max_streams_per_fleet = {self._config.max_streams_per_fleet}: {fleet} has as many open", 2000
            )
        self._streams[fleet] += 1

    def close(self, fleet: str) -> None:
        """A stream has ended."""
        self._streams[fleet] -= 1
        if not self._streams[fleet]:
            del self._streams[fleet]

    def call(self, fleet: str, now: float) -> None:
        """A fleet makes a call that is not a stream. Raises ExhaustedError.

        Args:
            fleet: whose call it is; known by its credentials, so that there are only so many.
            now: seconds, monotonic.
        """
        rate = self._config.calls_per_s
        most = max(1.0, rate * _BURST_S)
        left, since = self._buckets.get(fleet, (most, now))
        left = min(most, left + (now - since) * rate)
        if left < 1.0:
            self._buckets[fleet] = (left, now)
            raise ExhaustedError(
                f"calls_per_s = {rate:g}: {fleet} calls too often", max(1, int((1 - left) / rate * 1000))
            )
        self._buckets[fleet] = (left - 1.0, now)

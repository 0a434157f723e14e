"""Limits what callers may use: streams in total and per fleet, calls per second. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter

from learner.config import ConnectionConfig

_BURST_S = 1.0  # a quiet fleet may make this many seconds' worth of calls at once
_STREAM_RETRY_MS = 2000


class ExhaustedError(Exception):
    """A limit is reached.

    Attributes:
        retry_after_ms: milliseconds after which the caller may try again.
    """

    def __init__(self, text: str, retry_after_ms: int) -> None:
        super().__init__(text)
        self.retry_after_ms = retry_after_ms


class ConnectionLimits:
    """Counts open streams, and calls by token bucket, for every fleet on this gateway.

    Args:
        config: the limits.
    """

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self._streams: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}  # fleet -> (calls left, at which time)

    def open(self, fleet: str) -> None:
        """Counts a new stream of a fleet; ``close`` it later.

        Raises:
            ExhaustedError: too many streams are open, in total or of this fleet.
        """
        limits = self._config
        if self._streams.total() >= limits.max_streams:
            text = f"max_streams = {limits.max_streams}: this gateway has no stream left"
            raise ExhaustedError(text, _STREAM_RETRY_MS)
        if self._streams[fleet] >= limits.max_streams_per_fleet:
            text = f"max_streams_per_fleet = {limits.max_streams_per_fleet}: {fleet} has as many open"
            raise ExhaustedError(text, _STREAM_RETRY_MS)
        self._streams[fleet] += 1

    def close(self, fleet: str) -> None:
        """Counts a stream of a fleet as ended."""
        self._streams[fleet] -= 1
        if not self._streams[fleet]:
            del self._streams[fleet]

    def call(self, fleet: str, now: float) -> None:
        """Counts a call that is not a stream.

        Args:
            fleet: the authenticated caller, so that the number of buckets is bounded.
            now: monotonic seconds.

        Raises:
            ExhaustedError: the fleet calls more often than ``calls_per_s`` allows.
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

"""Keeps how long Redis has not answered, says so in the log now and then, and when that is too long."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from learner.queue.errors import UnavailableError

_LOG_EVERY_S = 30.0
_FORGOTTEN_S = 60.0  # nobody has tried for so long: a failure after that begins another outage


class Outage:
    """An outage of Redis, as all threads of a session see it. It begins with a failure and ends with a success.

    Args:
        limit_s: seconds after which an outage is an error.
        clock: returns seconds.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._since: float | None = None
        self._failed = 0.0
        self._logged = 0.0
        self._lock = threading.Lock()
        self._log = structlog.get_logger(process="learner")

    def failed(self, error: UnavailableError) -> UnavailableError | None:
        """Records a failure; logs the first of an outage, and then one every half a minute.

        Returns:
            The error that says so when the outage has reached its limit; None before that.
        """
        with self._lock:
            now = self._clock()
            if self._since is None or now - self._failed > _FORGOTTEN_S:
                self._since, self._logged = now, now - _LOG_EVERY_S
            self._failed = now
            lasts = now - self._since
            if now - self._logged >= _LOG_EVERY_S:
                self._logged = now
                self._log.warning("waiting for redis", error=str(error), waited_s=round(lasts), outage_s=self._limit_s)
            if lasts < self._limit_s:
                return None
            return type(error)(f"{error}; so for {lasts:.0f} s, and queue.outage_s = {self._limit_s:g}")

    def lasts_s(self) -> float | None:
        """Seconds since the first failure; None while Redis answers, or nobody has asked for a minute."""
        since, now = self._since, self._clock()
        return None if since is None or now - self._failed > _FORGOTTEN_S else now - since

    def ended(self) -> None:
        """Records that Redis has answered."""
        if self._since is None:  # without the lock: this is asked after every call
            return
        with self._lock:
            if self._since is not None:
                self._log.info("redis answers again", waited_s=round(self._clock() - self._since))
                self._since = None

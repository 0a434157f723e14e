"""Records what the training loop waits for when that lasts, for those who look at a run that makes no steps."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from learner.queue.learner_heartbeat import LearnerHeartbeat

Waiting = Literal["groups", "redis", "checkpoint", "publication", "paused", "backup"]

_LASTING_S = 5.0  # shorter waits are part of every step
_EVERY_S = 1.0
_JOIN_S = 5.0  # for the thread, which may be writing to Redis


class Activity:
    """Writes a row "activity" when a wait has lasted for five seconds, and one with what = "training" when it has ended.

    Args:
        event: writes a row of learner.jsonl.
        redis_away_s: returns for how many seconds Redis has not answered; None while it does.
        clock: returns Unix seconds.
        heartbeat: told every second what the loop does, for those who ask a gateway; None: nobody is.
    """

    def __init__(
        self,
        event: Callable[..., Any],
        redis_away_s: Callable[[], float | None],
        clock: Callable[[], float] = time.time,
        heartbeat: LearnerHeartbeat | None = None,
    ) -> None:
        self._event = event
        self._redis_away_s = redis_away_s
        self._clock = clock
        self._heartbeat = heartbeat
        self._doing: tuple[Waiting, float] | None = None
        self._said: tuple[Waiting, float] | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Activity:
        """Starts the thread that looks once a second."""
        self._thread = threading.Thread(target=self._run, name="activity", daemon=True)
        self._thread.start()
        return self

    @contextlib.contextmanager
    def doing(self, what: Waiting) -> Iterator[None]:
        """Context in which the training loop waits for ``what``."""
        self._doing = what, self._clock()
        try:
            yield
        finally:
            self._doing = None

    def look(self) -> None:
        """Writes a row if what the loop waits for has changed, and tells it to those who ask."""
        now = self._clock()
        lasting = self._lasting(now)
        what, since = lasting or ("training", now)
        if lasting != self._said:
            self._said = lasting
            self._event("activity", what=what, since=since)
        if self._heartbeat is not None:
            self._heartbeat.beat(what)

    def close(self) -> None:
        """Ends the thread, and tells nobody anything more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)  # a last word of it must not come after the end
        if self._heartbeat is not None:
            self._heartbeat.close()

    def _lasting(self, now: float) -> tuple[Waiting, float] | None:
        away_s, doing = self._redis_away_s(), self._doing
        if away_s is not None and away_s >= _LASTING_S:  # whatever else the loop does, this is what it waits for
            return self._said if self._said and self._said[0] == "redis" else ("redis", now - away_s)
        return doing if doing is not None and now - doing[1] >= _LASTING_S else None

    def _run(self) -> None:
        while not self._closed.wait(_EVERY_S):
            with contextlib.suppress(OSError, ValueError):  # a full disk, or a file closed at the end: the loop says so
                self.look()

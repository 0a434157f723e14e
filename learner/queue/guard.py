"""Keeps a learner from using data in Redis that is not the run's newest: looks once a second, and after every restart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog

from learner.queue.errors import HaltedError, StillAwayError
from learner.queue.keys import Keys
from learner.queue.redis_session import RedisSession
from learner.queue.witness import Watch, Witness

T = TypeVar("T")
_LOOK_S = 1.0


class Guard:
    """A learner's watch over the data of its run.

    Args:
        session: connection to Redis; its actions raise HaltedError while the queue stands still.
        run: the run's name.
    """

    def __init__(self, session: RedisSession, run: str) -> None:
        self._session = session
        self._watch = Watch(run, Keys(run), structlog.get_logger(process="learner"))
        self._next_look = 0.0
        self._tell: Callable[[str | None], None] = lambda why: None
        self._last: dict[str, Any] = {}

    def make_data(self) -> None:
        """Makes the data of a new run. Raises QueueError if the run's data is of another schema."""
        self._watch.created(self._session.call("create", *self._watch.creation()))

    def warn_of_failover(self) -> None:
        """Logs that a failover may lose what the replica lags behind, if the server takes writes without any replica."""

        def replication() -> Any:
            return self._session.client.info("replication")

        if "min_slaves_good_slaves" not in self._session.with_retry(replication):
            structlog.get_logger(process="learner").warning(
                "a failover may lose what the replica lags behind, and an operator must decide then: set "
                "min-replicas-to-write 1 and min-replicas-max-lag 10 on every redis server"
            )

    def begin(self, seen: Mapping[str, Any] | None) -> None:
        """Looks before each action of the session from now on, and at once.

        Args:
            seen: what a checkpoint says of the queue, as ``witness`` returned it; None without a checkpoint.

        Raises:
            HaltedError: the queue stands still, or the data is older than ``seen``, or other data.
        """
        if seen is not None:
            self._watch.known = Witness.of(seen)
        self._next_look = 0.0
        self._session.before_each(self._look)
        self._session.with_retry(lambda: None)

    def witness(self) -> dict[str, Any] | None:
        """Returns what has been seen of the data last, as JSON values."""
        return None if self._watch.known is None else self._watch.known.plain()

    def on_halt(self, tell: Callable[[str | None], None]) -> None:
        """Sets what is told why the queue stands still, and None when it goes on."""
        self._tell = tell

    def last_read(self, name: str, read: Callable[[], T], before: T) -> T:
        """Reads a value; while Redis is away, returns what the last call for ``name`` has read, or ``before``.

        It is away while the queue stands still, and where ``waiting_at_most`` sets a limit.
        """
        with contextlib.suppress(StillAwayError):
            self._last[name] = self._session.with_retry(read)
        return self._last.get(name, before)

    def _look(self, now: bool) -> None:
        halted = self._watch.halt is not None
        if not now and not halted and time.monotonic() < self._next_look:
            return
        reply = self._session.execute_once("witness", [self._watch.call()])[0]
        self._next_look = time.monotonic() + _LOOK_S
        try:
            self._watch.seen(reply)
        except HaltedError as error:
            if not halted:
                self._tell(str(error))
            raise
        if halted:
            self._tell(None)

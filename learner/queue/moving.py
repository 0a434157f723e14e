"""Makes a queue stand still for good, because the run goes on elsewhere: nothing is accepted or committed here any more."""

from __future__ import annotations

import json
import time
from typing import Any

import structlog

from learner.config import QueueConfig
from learner.queue.connect import connect
from learner.queue.errors import QueueError
from learner.queue.keys import Keys
from learner.queue.redis_session import RedisSession
from learner.queue.witness import MOVED, Halt, Watch, Witness


class MovingQueue:
    """The queue of a run that is moved; a context manager. Every method raises QueueError when Redis cannot be used.

    It uses the halt that also keeps an older copy of the data from being used: gateways answer RETRY, a learner that starts
    ends with the reason, and `leeway queue accept` lets the run go on here after all.

    Args:
        config: where the queue is.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._keys = Keys(config.run)
        self._run = config.run
        self._session = RedisSession(connect(config), config.timeout_s)
        self._halted = self._before = ""

    def __enter__(self) -> MovingQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.client.close()

    def begin(self, to: str) -> None:
        """Makes the queue stand still, as one that is being moved.

        Args:
            to: where what it holds is copied.

        Raises:
            QueueError: it stands still for another reason, which comes first.
        """
        watch = Watch(self._run, self._keys, structlog.get_logger())
        reply: Any = self._session.call("witness", *watch.call())
        found, before = json.loads(reply[0]), reply[1].decode()
        halt = Halt.parse(before) if before else None
        if halt is not None and halt.reason != MOVED:
            raise QueueError(halt.describe(self._run))
        known = Witness.of(found).plain()
        self._halted = self._before = before
        move = {"reason": MOVED, "known": known, "found": known, "to": to, "at": time.time(), "complete": False}
        self._change(json.dumps(move), "leeway queue status RUN says why; then ask again")

    def complete(self) -> None:
        """Records that all of it is there: the run has moved. Raises QueueError: it may go on here."""
        move = json.loads(self._halted)
        advice = f"do not restore {move['to']} as its continuation (leeway queue status RUN says how it stands)"
        self._change(json.dumps(move | {"complete": True}), advice)

    def give_up(self) -> None:
        """Leaves the queue as it was before, because it could not be copied: one that had moved already stays so."""
        self._change(self._before, "leeway queue status RUN says how it stands")

    def _change(self, text: str, advice: str) -> None:
        if not self._session.call("halt", [self._keys.halted], [self._halted, text]):
            raise QueueError(
                f"run {self._run!r}: meanwhile the move was taken back or begun again, or its queue stands still for another "
                f"reason: {advice}"
            )
        self._halted = text

"""What a process has seen of a run's data in Redis, by which it notices that the data has become older.

A restored file, a replica that lagged when it was promoted, or a server that somebody has flushed looks like a working queue.
It would accept groups again that were trained before, and those that it has forgotten would be missing without a word. So the
data has a nonce, drawn when it is made, and a clock that only advances (witness.lua). Every gateway and the learner compare
both once a second with the newest they have seen; the learner also writes them into its checkpoints. Who finds Redis behind
halts the queue, until an operator decides (`leeway queue accept`).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from structlog.stdlib import BoundLogger

from learner.queue.errors import HaltedError, MovedError
from learner.queue.keys import Keys
from learner.queue.redis_session import Call
from learner.queue.schema import SCHEMA, require_schema

# With AOF everysec a killed Redis loses its last second, or three when the disk is slow; the clock advances by five seconds
# more where nobody had looked at it for a while. What is forgotten within this is written again, or counted as vanished.
FORGETTABLE_S = 10.0
# For how long processes remember what they wrote, to write it again. Longer than FORGETTABLE_S, because the clock of an older
# copy may have advanced before the first of those who know better has looked.
REPAIRED_S = 20.0
MOVED = "moved"  # the reason of a halt that an operator has asked for: the run goes on elsewhere (learner.queue.moving)


@dataclass(frozen=True)
class Witness:
    """Numbers of a run's data that never decrease, and the nonce of the data, at one instant.

    Attributes:
        nonce: names the data.
        clock: its clock, milliseconds.
        epoch: the newest learner's epoch; a learner that has only started counts.
        step: optimizer steps that a learner had reported.
        accepted: fleet -> groups accepted.
        trained: fleet -> groups trained and committed.
        reported: epoch of the learner that had reported ``step``.
    """

    nonce: str
    clock: int
    epoch: int = 0
    step: int = 0
    accepted: Mapping[str, int] = field(default_factory=dict)
    trained: Mapping[str, int] = field(default_factory=dict)
    reported: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Witness:
        """Builds a witness from parsed JSON: a checkpoint's, or what witness.lua returns."""
        accepted, trained = ({f: int(n) for f, n in values[name].items()} for name in ("accepted", "trained"))
        numbers = {name: int(values[name]) for name in ("clock", "epoch", "step", "reported")}
        return cls(str(values["nonce"]), **numbers, accepted=accepted, trained=trained)

    @property
    def floor(self) -> int:
        """The least that the clock of the same data may say later."""
        return self.clock - int(1000 * FORGETTABLE_S)

    def plain(self) -> dict[str, Any]:
        """Returns the witness as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Halt:
    """Why a queue stands still.

    Attributes:
        reason: "empty", "another" or "older": what is wrong with the data; or MOVED: nothing is.
        known: what was seen before.
        found: what is there instead.
        text: the record as Redis stores it.
        to: where a run that moves goes.
        at: Unix seconds at which the move began.
        complete: whether all of it is there.
    """

    reason: str
    known: Witness
    found: Witness
    text: str
    to: str = ""
    at: float = 0.0
    complete: bool = False

    @classmethod
    def parse(cls, text: str) -> Halt:
        """Parses what witness.lua stores."""
        values = json.loads(text)
        move = {name: values[name] for name in ("to", "at", "complete") if name in values}
        return cls(values["reason"], Witness.of(values["known"]), Witness.of(values["found"]), text, **move)

    def describe(self, run: str) -> str:
        """Says what is wrong, what is missing and what to do, in one line."""
        if self.reason == MOVED:
            return self._describe_move(run)
        known, found = self.known, self.found
        what = {
            "empty": "Redis has lost this run's data (flushed, or another server)",
            "another": "Redis has other data under this run's name (flushed and begun anew, or another server)",
            "older": f"Redis has an older copy of this run's data, by at least {(known.clock - found.clock) / 1000:.0f} s",
        }[self.reason]
        numbers = ", ".join(
            f"{name} {before} (there: {now})"
            for name, before, now in (
                ("accepted", sum(known.accepted.values()), sum(found.accepted.values())),
                ("trained", sum(known.trained.values()), sum(found.trained.values())),
                ("epoch", known.epoch, found.epoch),
                ("step", known.step, found.step),
            )
        )
        return (
            f"the queue of run {run!r} is halted: {what}. Seen before: {numbers}. Nothing is accepted or committed. Put the "
            "newest data back and restart Redis, or accept the loss: leeway queue accept RUN"
        )

    def _describe_move(self, run: str) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.at))
        after_all = "If the run is to go on here after all, and runs nowhere else: leeway queue accept RUN"
        if self.complete:
            return (
                f"run {run!r} has moved to {self.to} at {when}: nothing is accepted or trained here. It goes on with "
                f"leeway restore there; fleets need the new address. {after_all}"
            )
        return (
            f"run {run!r} is being moved to {self.to} since {when}: nothing is accepted or trained here. If nobody does that "
            f"any more, begin again: leeway backup RUN URI --final. {after_all}"
        )


class Watch:
    """Keeps the newest witness of one process, and says what to send to witness.lua.

    Args:
        run: the run's name.
        keys: the run's keys.
        log: told once about each halt, and about its end.

    Attributes:
        known: the newest witness; None before the run's data has been seen.
        halt: why the queue stands still; None while it does not.
    """

    def __init__(self, run: str, keys: Keys, log: BoundLogger) -> None:
        self.known: Witness | None = None
        self.halt: Halt | None = None
        self._run = run
        self._keys = keys
        self._log = log

    def creation(self) -> Call:
        """Keys and arguments of create.lua. A process that knows the run's nonce makes no new data."""
        nonce = uuid.uuid4().hex if self.known is None else ""
        return [self._keys.schema, self._keys.nonce], [SCHEMA, nonce]

    def created(self, reply: Sequence[bytes]) -> None:
        """Takes the reply of create.lua. Raises QueueError if the data is of another schema."""
        schema, nonce = reply
        require_schema(schema or None, self._keys)
        if self.known is None:
            self.known = Witness(nonce.decode(), 0)

    def call(self) -> Call:
        """Keys and arguments of witness.lua."""
        keys = self._keys
        names = [keys.clock, keys.nonce, keys.halted, keys.replaced, keys.epoch, keys.progress, keys.fleets]
        known = "" if self.known is None else json.dumps(self.known.plain())
        return names, [keys.ledger_prefix, known, int(1000 * FORGETTABLE_S)]

    def seen(self, reply: Sequence[bytes]) -> None:
        """Takes the reply of witness.lua.

        Raises:
            HaltedError: the queue stands still.
        """
        found, halted, decision = (part.decode() for part in reply)
        if halted:
            halt = Halt.parse(halted)
            if self.halt is None:
                self._log.error(halt.describe(self._run))
            self.halt = halt
            raise (MovedError if halt.reason == MOVED else HaltedError)(halt.describe(self._run))
        if self.halt is not None:
            self._log.warning("the queue goes on", decision=json.loads(decision) if decision else None)
        elif decision:
            self._log.warning(
                "the queue goes on with other data, as an operator decided", decision=json.loads(decision)
            )
        self.halt, self.known = None, Witness.of(json.loads(found))

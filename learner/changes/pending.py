"""Rank 0's side of changes: it reads those that wait, and records what became of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from google.protobuf import json_format

from learner.config import LearnerConfig
from learner.config.changeable import ChangeError
from learner.publish.catalog import pinned
from learner.queue import FencedError, QueueError
from learner.queue.change_journal import ChangeJournal
from learner.run import RankZeroCallbacks
from leeway.v1 import operator_pb2 as op


@dataclass(frozen=True)
class Settled:
    """What became of a change.

    Attributes:
        reason: why it was refused, or what was done, for people.
        refused: whether it was refused.
        step: the step before which it was, 1-based.
        old: values of the settings before, as JSON.
        new: values after.
    """

    reason: str
    refused: bool
    step: int
    old: Mapping[str, str]
    new: Mapping[str, str]


class PendingChanges:
    """Changes that wait for the learner. What Redis, being away, has not been told is told at the next look.

    Args:
        config: where the journal is.
        lead: the queue, and where rows are written.

    Attributes:
        first_look: whether the last look was the first one that Redis answered: what waited then was requested before the
            learner had started.
    """

    def __init__(self, config: LearnerConfig, lead: RankZeroCallbacks) -> None:
        self._journal = ChangeJournal(config.queue, lead.queue.epoch)
        self._lead = lead
        self._versions = config.publish.dir
        self._looked = self._pins_told = self.first_look = False
        self._untold: dict[int, Settled] = {}
        self._log = structlog.get_logger()

    def read(self) -> list[op.RecordedChange]:
        """Reads the changes that wait, oldest first; none while Redis is away.

        The first look tells the journal which versions are pinned on disk: while no learner ran, operators have pinned there.

        Raises:
            FencedError: a newer learner has started.
        """
        self._lead.queue.changes_seen()
        self.first_look = False
        try:
            self._tell_pins()
            for number, settled in list(self._untold.items()):
                self._tell(number, settled)
            found = [record for record in self._journal.pending() if record.number not in self._untold]
        except FencedError:
            raise
        except QueueError as error:
            self._log.warning(
                "operators' changes cannot be read: the next look is after the next step", error=str(error)
            )
            return []
        self.first_look, self._looked = not self._looked, True
        return found

    def settle(self, record: op.RecordedChange, settled: Settled) -> None:
        """Records what became of a change: in the journal, in learner.jsonl and in the log.

        Raises:
            FencedError: a newer learner has started.
        """
        kind = record.change.WhichOneof("kind") or "unknown"
        facts = {"number": record.number, "change": kind, "operator": record.operator, "step": settled.step}
        facts |= {"content": json_format.MessageToDict(record.change).get(kind, {})}
        facts |= {"refused": settled.refused, "reason": settled.reason, "old": settled.old, "new": settled.new}
        self._lead.metrics.event("change", **facts)
        self._log.warning("a change is refused" if settled.refused else "a change is in force", **facts)
        self._untold[record.number] = settled
        try:
            self._tell(record.number, settled)
        except FencedError:
            raise
        except QueueError as error:
            self._log.warning("the journal is told of the change later", number=record.number, error=str(error))

    def give_up(self, unfit: Mapping[str, str], step: int) -> None:
        """Takes changed settings that do not fit any more out of force; in the journal that is the learner's own change.

        Where the journal cannot take it, because Redis is away or too many changes wait, it is left to the next start.

        Raises:
            FencedError: a newer learner has started.
        """
        for name, reason in unfit.items():
            digest = hashlib.sha256(f"{name} {reason}".encode()).hexdigest()[:16]
            request_id = f"unfit-{self._lead.queue.epoch}-{digest}"
            change = op.Change(unset=op.UnsetSettings(names=[name]))
            try:
                record = self._journal.request(request_id, "learner", change)
            except (QueueError, ChangeError) as error:
                self._log.warning(
                    "a setting that does not fit stays in the journal until the next start", error=str(error)
                )
                return
            self.settle(record, Settled(f"it does not fit the run file any more: {reason}", False, step, {}, {}))

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def _tell_pins(self) -> None:
        if self._pins_told:
            return
        try:
            found = pinned(self._versions)
        except OSError as error:
            self._log.warning(
                "pinned versions cannot be read: the next look is after the next step",
                directory=str(self._versions),
                error=str(error),
            )
            return
        if changed := self._journal.pin_exactly(found):
            self._log.info("pinned versions are those that are marked on disk", pinned=sorted(found), changed=changed)
        self._pins_told = True

    def _tell(self, number: int, settled: Settled) -> None:
        state = op.CHANGE_STATE_REFUSED if settled.refused else op.CHANGE_STATE_APPLIED
        self._journal.settle(number, state, settled.reason, settled.step, settled.old, settled.new)
        del self._untold[number]

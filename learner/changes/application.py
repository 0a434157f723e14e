"""Applies operators' changes to a running learner. Every rank goes through the same changes between the same two steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from learner.backup.live import back_up
from learner.changes.marks import pin, request_rollback_to, requested_already, unpin
from learner.changes.pending import PendingChanges, Settled
from learner.changes.start import Start
from learner.checkpoint.store import completed, epoch_and_step
from learner.config import LearnerConfig
from learner.config.changeable import ChangeError, change_learner
from learner.run import Run
from leeway.v1 import operator_pb2 as op
from runtime.errors import LeewayError

_PAUSED_S = 2.0  # the other ranks wait in a collective, which must complete well within its timeout
_POLL_S = 0.1
_CUT_SHORT = (
    "the learner has ended before the backup was complete: ask again, or use leeway backup with the run's directory"
)
_ASKED_BEFORE = (
    "final = true: the learner has started since it was asked, and the move may have been taken back: ask again"
)


@dataclass(frozen=True)
class _Done:
    """What an applied change did: a sentence for people, and the settings before and after."""

    reason: str = ""
    old: Mapping[str, str] = field(default_factory=dict)
    new: Mapping[str, str] = field(default_factory=dict)


class Changes:
    """Applies changes between two steps. Every rank makes one, and calls it in step.

    Args:
        run: the opened run.
        start: what it was opened with.

    Attributes:
        rolls_back: whether an operator has asked to go back to an older checkpoint: the learner must start again.
        stops: whether a stop signal has come to some rank while the run was paused.
    """

    def __init__(self, run: Run, start: Start) -> None:
        self.rolls_back = self.stops = False
        self._run = run
        self._start = start
        self._in_force = dict(start.in_force)
        self._paused = False
        self._pending = None if run.lead is None else PendingChanges(start.base, run.lead)
        self._backups: dict[int, tuple[op.RecordedChange, Future[Any]]] = {}

    def begin(self, step: int) -> None:
        """Goes through the changes that waited for the learner to start, and stays here while the run is paused. Collective.

        What is in force is read again: until this learner had fenced it, an older one may have applied changes.

        Args:
            step: optimizer steps done.

        Raises:
            FencedError: a newer learner has started (rank 0).
            UnavailableError: Redis has not answered for queue.outage_s (rank 0).
        """
        start = Start.read(self._start.base, self._run.ranks, self._start)
        if start.config != self._run.config:
            self._run.configure(start.config)
        self._start, self._in_force = start, dict(start.in_force)
        self._pause(start.paused)
        if self._pending is not None:
            self._pending.give_up(self._start.unfit, step + 1)
        self.apply(step)

    def apply(self, step: int) -> None:
        """Goes through the changes that wait, and stays here while the run is paused. Collective.

        Args:
            step: optimizer steps done.

        Raises:
            FencedError: a newer learner has started (rank 0).
        """
        while True:
            for record in self._waiting(step):
                self._one(record, step)
                if self.rolls_back:
                    return
            if not self._paused or step >= self._run.config.steps:
                return
            self.stops = self._run.ranks.any(self._run.stop.requested())
            if self.stops:
                return
            with self._run.waiting("paused"):
                self._wait(step)

    def close(self, finished: bool) -> None:
        """Refuses what will not be done any more. Call it once no step follows.

        Args:
            finished: whether the run has made all its steps.
        """
        if self._pending is None:
            return
        for record, _ in list(self._backups.values()):
            self._is_being_made(record)
        for record, _ in self._backups.values():
            self._settle(record, _Done(_CUT_SHORT), refused=True)
        if finished:
            for record in self._pending.read():
                record.step = self._run.config.steps
                self._settle(record, _Done("the run has finished"), refused=True)
        self._pending.close()

    def _waiting(self, step: int) -> list[op.RecordedChange]:
        """Returns the changes that wait, the same on every rank. Collective."""
        content = None
        if self._pending is not None:
            records = [record for record in self._pending.read() if not self._is_being_made(record)]
            if self._pending.first_look:
                records = [record for record in records if not self._was_to_move(record, step)]
            content = op.ListChangesResponse(changes=records).SerializeToString()
        return list(op.ListChangesResponse.FromString(self._run.ranks.broadcast_bytes(content)).changes)

    def _is_being_made(self, record: op.RecordedChange) -> bool:
        """Whether a change is a backup that is being made; settles it if it is done."""
        begun, backup = self._backups.get(record.number, (record, None))
        if backup is not None and backup.done():
            del self._backups[record.number]
            try:
                moved = "; the run has moved, and does not go on here" if begun.change.backup.final else ""
                self._settle(begun, _Done(backup.result().describe() + moved))
            except LeewayError as error:
                self._settle(begun, _Done(str(error)), refused=True)
        return backup is not None

    def _was_to_move(self, record: op.RecordedChange, step: int) -> bool:
        """Whether a change is a final backup that was asked before this learner started; refuses it then."""
        if not record.change.backup.final:
            return False
        record.step = step + 1
        self._settle(record, _Done(_ASKED_BEFORE), refused=True)
        return True

    def _one(self, record: op.RecordedChange, step: int) -> None:
        """Applies a change, or refuses it and leaves everything as it is. Collective."""
        kind = record.change.WhichOneof("kind")
        record.step = step + 1
        try:
            done = self._settings(record, step) if kind in ("set", "unset", "finish") else self._other(record, step)
        except ChangeError as error:
            self._settle(record, _Done(str(error)), refused=True)
            return
        if done is not None:
            self._settle(record, done)

    def _settings(self, record: op.RecordedChange, step: int) -> _Done:
        """Changes settings, all or none. A run that is to finish now has as many steps as it has made."""
        change = record.change
        values = dict(change.set.values)
        # What was given up at the start is out of force already, and this release may not know it.
        given_up = self._start.unfit.keys() - self._in_force.keys()
        removed = [name for name in change.unset.names if name not in given_up]
        if change.WhichOneof("kind") == "finish":
            if step == 0:
                raise ChangeError("finish: the run has made no step; leeway stop ends the learner")
            values = {"steps": str(step)}
        elif "steps" in values or "steps" in removed:
            self._more_steps_than(step, values, removed)
        changed = change_learner(self._start.base, self._in_force, values, removed)
        self._run.configure(changed.config)
        for name in removed:
            self._in_force.pop(name, None)
        self._in_force |= values
        return _Done("", changed.old, changed.new)

    def _more_steps_than(self, step: int, values: Mapping[str, str], removed: list[str]) -> None:
        wanted = change_learner(self._start.base, self._in_force, values, removed).config.steps
        if wanted <= step:
            raise ChangeError(
                f"steps = {wanted}: the run has made {step} already; choose more, or end it now with leeway ctl RUN finish"
            )

    def _other(self, record: op.RecordedChange, step: int) -> _Done | None:
        """Applies a change that is not one of settings; None: it goes on in the background."""
        change, run = record.change, self._run
        kind = change.WhichOneof("kind")
        if kind in ("pause", "resume"):
            again = self._paused == (kind == "pause")
            self._pause(kind == "pause")
            return _Done(f"it was {'paused' if self._paused else 'not paused'} already" if again else "")
        if kind == "checkpoint":
            return self._checkpoint(step)
        if kind == "publish":
            if run.publisher.published_step == step:
                return _Done(f"version {run.publisher.version} has these weights already")
            run.publish(step)
            return _Done(f"version {run.publisher.version}")
        if kind == "rollback":
            return self._roll_back(record, step)
        if kind == "pin":
            return None if run.lead is None else _Done(pin(run.config.publish.dir, change.pin.version))
        if kind == "unpin":
            return None if run.lead is None else _Done(unpin(run.config.publish.dir, change.unpin.version))
        if kind == "backup":
            if change.backup.final:
                self._be_ready_to_move(step)
            if run.lead is not None:
                self._backups[record.number] = record, begun_backup(run.config, change.backup)
            return None
        raise ChangeError(
            f"{kind or 'change'}: this learner does not know it; start it with the gateways' version of leeway"
        )

    def _be_ready_to_move(self, step: int) -> None:
        """Saves and commits what a run has trained that goes on elsewhere. Raises ChangeError: it trains on, or on rank 0."""
        if not self._paused:
            raise ChangeError(
                "final = true: the run goes on training, and the steps that follow would be lost: pause it first (leeway ctl "
                "pause), then ask again"
            )
        self._checkpoint(step)
        if self._run.lead is not None and self._run.checkpointer.uncommitted:
            raise ChangeError(
                f"final = true: {self._run.checkpointer.uncommitted} trained groups could not be committed: the learner's "
                "log says why; ask again"
            )

    def _checkpoint(self, step: int) -> _Done:
        run = self._run
        with run.waiting("checkpoint"), run.short_waits():
            run.checkpointer.finish()
            if not run.ranks.agree([int(self._is_durable(step))])[0]:
                run.checkpointer.save(step)
                run.checkpointer.finish()
            run.report_progress(step)
        if run.lead is not None and not self._is_durable(step):
            raise ChangeError(
                "the checkpoint could not be written: the learner's log says why; make space, and ask again"
            )
        return _Done(f"step {step} is in a checkpoint")

    def _is_durable(self, step: int) -> bool:
        newest = completed(self._run.checkpointer.fence.root)[-1:]
        return bool(newest) and epoch_and_step(newest[0].name) == (self._run.checkpointer.fence.epoch, step)

    def _roll_back(self, record: op.RecordedChange, step: int) -> _Done:
        """Requests the rollback, once: a request that the start before this one has applied is only recorded."""
        run, fence, version = self._run, self._run.checkpointer.fence, record.change.rollback.version
        refusal, done, goes = None, _Done(), False
        if run.lead is not None:
            try:
                before = requested_already(fence, record.request_id)
                asked, limits = (record.request_id, record.operator), run.rates.rollback_by_operator()
                target = before or request_rollback_to(fence, run.config.publish.dir, version, step, asked, limits)
                done, goes = _Done(f"goes on from {target}"), before is None
            except ChangeError as error:
                refusal = error
        self.rolls_back = bool(run.ranks.agree([int(goes)])[0])
        if refusal is not None:
            raise refusal
        return done

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._run.prefetch.pause(paused)
        self._run.rank_metrics.health.paused = paused

    def _wait(self, step: int) -> None:
        """Waits in a pause, for seconds, until there is something to do; commits what has become durable. Collective."""
        run, until = self._run, time.monotonic() + _PAUSED_S
        run.watchdog.alive()
        while run.lead is not None and time.monotonic() < until and not run.stop.requested():
            run.lead.queue.look_for_changes()
            if run.lead.queue.changes_wait:
                break
            time.sleep(_POLL_S)
        before = run.checkpointer.uncommitted
        with run.short_waits():
            run.checkpointer.poll()
            if run.checkpointer.uncommitted != before:
                run.report_progress(step)

    def _settle(self, record: op.RecordedChange, done: _Done, refused: bool = False) -> None:
        if self._pending is not None:
            self._pending.settle(record, Settled(done.reason, refused, record.step, done.old, done.new))


def begun_backup(config: LearnerConfig, wanted: op.BackUp) -> Future[Any]:
    """Begins a backup in the background. Raises ChangeError: it cannot be begun."""
    try:
        return back_up(config, wanted.uri, wanted.keep or None, wanted.final)
    except LeewayError as error:
        raise ChangeError(f"uri = {wanted.uri}: {error}") from error

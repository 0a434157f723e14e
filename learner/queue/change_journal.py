"""The journal of what operators have changed in a running service, and what of it is in force."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from learner.config import QueueConfig
from learner.config.changeable import ChangeError, is_gateways, owner
from learner.queue.connect import connect, translated
from learner.queue.errors import QueueError
from learner.queue.keys import Keys
from learner.queue.redis_session import RedisSession
from learner.queue.scripts import script
from leeway.v1 import operator_pb2

CHANGES_KEPT = 2000
MOST_PENDING = 100  # changes that wait for the learner
_LARGEST_CHANGE = 64 << 10  # bytes
_TRIES = 20  # of a change of gateways' settings, while other operators change some too
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SETTINGS, _DRAINED, _PINNED, _STATE = 5, 6, 7, 4  # places among the scripts' keys

# Given the settings in force, returns old and new values of the settings that a change concerns, or raises ChangeError.
Judge = Callable[[Mapping[str, str]], tuple[Mapping[str, str], Mapping[str, str]]]


@dataclass(frozen=True)
class InForce:
    """What operators have changed and what is in force, as it was read at one moment.

    Attributes:
        settings: name -> value as JSON.
        drained: fleets that are granted no groups.
        pinned: versions that are kept until they are unpinned.
        paused: whether the learner trains nothing.
    """

    settings: Mapping[str, str]
    drained: frozenset[str]
    pinned: frozenset[int]
    paused: bool


class ChangeJournal:
    """A run's journal of changes. Every method raises QueueError when Redis cannot be used; none waits for it.

    Drained fleets and settings of gateways alone are in force as soon as they are written down. Everything else waits for the
    learner, which looks between two steps.

    Args:
        config: where the queue is.
        epoch: the learner's epoch: ``settle`` raises FencedError once a newer learner has started; None: not a learner.
    """

    def __init__(self, config: QueueConfig, epoch: int | None = None) -> None:
        self._client = connect(config)
        self._keys = Keys(config.run)
        self._epoch = epoch

    def __enter__(self) -> ChangeJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def request(
        self, request_id: str, operator: str, change: operator_pb2.Change, judge: Judge | None = None
    ) -> operator_pb2.RecordedChange:
        """Writes down a change, once: the same request_id again returns the record that is there, whatever the change is.

        Args:
            request_id: drawn by the operator, 1 to 64 of [A-Za-z0-9._-]. It is forgotten with its change.
            operator: who requests it, by the credentials.
            change: what is to change.
            judge: validates settings of gateways, which are in force at once. Without it any value is taken, and values that
                no operator has changed before are missing from ``old_values``.

        Raises:
            ChangeError: the change names nothing, is too large, or sets what cannot be changed while a run goes on; too
                many changes wait for the learner; or ``judge`` has raised it.
        """
        _check(request_id, change)
        waits = _waits(change)
        for _ in range(_TRIES):
            revision, in_force = self._revision()
            record = operator_pb2.RecordedChange(request_id=request_id, operator=operator, change=change)
            record.requested_at.GetCurrentTime()
            record.state = operator_pb2.CHANGE_STATE_PENDING
            if not waits:
                old, new = _values(change, in_force, judge) if self._number(request_id) is None else ({}, {})
                _settle(record, operator_pb2.CHANGE_STATE_APPLIED, "", 0)
                record.old_values.update(old)
                record.new_values.update(new)
            number = self._write_request(record, revision if not waits and _is_settings(change) else "")
            if number == -1:
                raise ChangeError(
                    f"{MOST_PENDING} changes wait for the learner already: see that it runs, and request this one then"
                )
            if number:
                return self._read([number])[0]
        raise QueueError("other operators change settings all the time: request the change again")

    def list(self, after: int = 0, request_id: str = "") -> list[operator_pb2.RecordedChange]:
        """Returns the changes that are kept, in the order in which they were requested.

        Args:
            after: only those with a higher number.
            request_id: only the change of this request; empty: all.
        """
        with translated():
            pairs: Any = self._client.zrangebyscore(self._keys.change_requests, f"({after}", "+inf", withscores=True)
        return self._read([int(number) for name, number in pairs if not request_id or name.decode() == request_id])

    def pending(self) -> list[operator_pb2.RecordedChange]:
        """Returns the changes that wait for the learner, oldest first."""
        with translated():
            numbers: Any = self._client.zrange(self._keys.change_pending, 0, -1)
        return [record for record in self._read([int(number) for number in numbers]) if _is_pending(record)]

    def settle(
        self,
        number: int,
        state: operator_pb2.ChangeState,
        reason: str = "",
        step: int = 0,
        old: Mapping[str, str] | None = None,
        new: Mapping[str, str] | None = None,
    ) -> None:
        """Records what became of a change that waited; an applied one is in force from then on. Again: changes nothing.

        Args:
            number: of the change.
            state: CHANGE_STATE_APPLIED or CHANGE_STATE_REFUSED.
            reason: why it was refused, or what was done.
            step: the step before which it was, 1-based.
            old: values of the settings before, as JSON.
            new: values after. A change that is no SetSettings puts these settings in force too, if there are any.

        Raises:
            FencedError: a newer learner has started.
        """
        found = self._read([number])
        if not found or not _is_pending(found[0]):
            return
        record = found[0]
        _settle(record, state, reason, step)
        record.old_values.update(old or {})
        record.new_values.update(new or {})
        effects = _effects(record) if state == operator_pb2.CHANGE_STATE_APPLIED else []
        epoch = "" if self._epoch is None else str(self._epoch)
        self._run("settle_change", [*self._names(), self._keys.epoch], [number, _stored(record), epoch, *effects])

    def pin_exactly(self, versions: Iterable[int]) -> int:
        """Makes the pinned versions those that a learner has found marked on disk, where it is said what stays.

        Returns:
            How many versions are pinned now and were not, or were and are not.

        Raises:
            FencedError: a newer learner has started.
        """
        arguments = [str(self._epoch), *sorted(versions)]
        return int(self._run("pin_exactly", [self._keys.pinned, self._keys.epoch], arguments))

    def in_force(self) -> InForce:
        """Returns everything that is in force, as of one moment."""
        keys = self._keys
        with translated(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(keys.settings)
            pipeline.smembers(keys.drained)
            pipeline.smembers(keys.pinned)
            pipeline.hget(keys.change_state, "paused")
            return parse_in_force(*pipeline.execute())

    def settings(self) -> dict[str, str]:
        """Returns the settings that operators have changed and that are in force: name -> value as JSON."""
        return dict(self.in_force().settings)

    def drained(self) -> set[str]:
        """Returns the fleets that are granted no groups."""
        return set(self.in_force().drained)

    def pinned(self) -> set[int]:
        """Returns the versions that are kept until they are unpinned."""
        return set(self.in_force().pinned)

    def paused(self) -> bool:
        """Returns whether the learner is paused, or is to be once it runs."""
        return self.in_force().paused

    def _revision(self) -> tuple[str, dict[str, str]]:
        with translated(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hget(self._keys.change_state, "revision")
            pipeline.hgetall(self._keys.settings)
            revision, settings = pipeline.execute()
        return (revision or b"0").decode(), _texts(settings)

    def _number(self, request_id: str) -> int | None:
        with translated():
            number: Any = self._client.zscore(self._keys.change_requests, request_id)
        return None if number is None else int(number)

    def _write_request(self, record: operator_pb2.RecordedChange, revision: str) -> int:
        effects = [] if _is_pending(record) else _effects(record)
        arguments = [revision, CHANGES_KEPT, MOST_PENDING, int(_is_pending(record)), *effects]
        return int(self._run("request_change", self._names(), [record.request_id, _stored(record), *arguments]))

    def _names(self) -> list[str]:
        keys = self._keys
        journal = [keys.changes, keys.change_requests, keys.change_pending, keys.change_state]
        return [*journal, keys.settings, keys.drained, keys.pinned]

    def _read(self, numbers: list[int]) -> list[operator_pb2.RecordedChange]:
        if not numbers:
            return []
        with translated():
            stored: Any = self._client.hmget(self._keys.changes, [str(number) for number in numbers])
        found = []
        for number, text in zip(numbers, stored, strict=True):
            if text is not None:  # it may have been dropped since
                record = operator_pb2.RecordedChange.FromString(text)
                record.number = number
                found.append(record)
        return found

    def _run(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        with translated():
            return self._client.eval(script(name).text, len(keys), *keys, *arguments)


def read_patiently(config: QueueConfig) -> InForce:
    """Reads what is in force, waiting for a Redis that is not there yet.

    Raises:
        UnavailableError: Redis has not answered for queue.outage_s.
        QueueError: Redis refuses us.
    """
    journal = ChangeJournal(config)
    with journal:
        return RedisSession(journal._client, config.outage_s).with_retry(journal.in_force)


def parse_in_force(settings: Any, drained: Any, pinned: Any, paused: Any) -> InForce:
    """Parses the replies of HGETALL settings, SMEMBERS drained, SMEMBERS pinned and HGET change_state paused."""
    fleets = frozenset(fleet.decode() for fleet in drained)
    return InForce(_texts(settings), fleets, frozenset(int(version) for version in pinned), paused is not None)


def _texts(stored: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sorted(stored.items())}


def _check(request_id: str, change: operator_pb2.Change) -> None:
    if not _REQUEST_ID.fullmatch(request_id):
        raise ChangeError(f"request_id = {request_id[:80]!r}: expected 1 to 64 of [A-Za-z0-9._-]")
    kind = change.WhichOneof("kind")
    if kind is None:
        raise ChangeError("the change names nothing to change: set one of its fields, such as pause or set")
    if change.ByteSize() > _LARGEST_CHANGE:
        raise ChangeError(f"the change has {change.ByteSize()} bytes, more than {_LARGEST_CHANGE}: divide it")
    if kind in ("set", "unset") and not _setting_names(change):
        raise ChangeError(f"{kind} names no setting: name one, such as optimizer.lr")


def _setting_names(change: operator_pb2.Change) -> list[str]:
    return list(change.set.values) or list(change.unset.names)


def _is_settings(change: operator_pb2.Change) -> bool:
    return change.WhichOneof("kind") in ("set", "unset")


def _waits(change: operator_pb2.Change) -> bool:
    """Whether the learner must apply it. Raises ChangeError for a setting that cannot be set."""
    if change.WhichOneof("kind") == "set":
        return "learner" in {owner(name) for name in change.set.values}
    if change.WhichOneof("kind") == "unset":  # it may be in force though only a newer release knows it
        return not all(is_gateways(name) for name in change.unset.names)
    return change.WhichOneof("kind") not in ("drain", "undrain")


def _values(
    change: operator_pb2.Change, in_force: Mapping[str, str], judge: Judge | None
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Old and new values of a change that gateways apply."""
    if not _is_settings(change):
        return {}, {}
    if judge is not None:
        return judge(in_force)
    old = {name: in_force[name] for name in _setting_names(change) if name in in_force}
    return old, dict(change.set.values)


def _is_pending(record: operator_pb2.RecordedChange) -> bool:
    return record.state == operator_pb2.CHANGE_STATE_PENDING


def _settle(record: operator_pb2.RecordedChange, state: operator_pb2.ChangeState, reason: str, step: int) -> None:
    record.state, record.reason, record.step = state, reason, step
    record.settled_at.GetCurrentTime()


def _stored(record: operator_pb2.RecordedChange) -> bytes:
    copy = operator_pb2.RecordedChange()
    copy.CopyFrom(record)
    copy.number = 0
    return copy.SerializeToString(deterministic=True)


def _effects(record: operator_pb2.RecordedChange) -> list[Any]:
    """What an applied change puts in force: command, number of a key, member and value of each."""
    change = record.change
    kind = change.WhichOneof("kind")
    if kind == "unset":
        return [text for name in change.unset.names for text in ("HDEL", _SETTINGS, name, "")]
    if kind == "drain":
        return ["SADD", _DRAINED, change.drain.fleet, ""]
    if kind == "undrain":
        return ["SREM", _DRAINED, change.undrain.fleet, ""]
    if kind == "pin":
        return ["SADD", _PINNED, change.pin.version, ""]
    if kind == "unpin":
        return ["SREM", _PINNED, change.unpin.version, ""]
    if kind == "pause":
        return ["HSET", _STATE, "paused", "1"]
    if kind == "resume":
        return ["HDEL", _STATE, "paused", ""]
    values = change.set.values if kind == "set" else record.new_values
    return [text for name in sorted(values) for text in ("HSET", _SETTINGS, name, values[name])]

"""The groups that a run keeps for its operator: the newest few that gateways rejected or the learner refused to train."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.errors import QueueError
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2

NOT_FINITE = "not_finite"  # the reason of a group that the learner refused: its loss or its gradient was not finite
_LARGEST_PAYLOAD = 64 << 10  # bytes; larger groups are kept without their payload


def quarantine_entry(fleet: str, group_id: str, group: rollout_pb2.Group, fault: tuple[str, str, str]) -> str:
    """Makes the entry of a group that is to be kept now, as JSON: ``Quarantined.parse`` reads it.

    Args:
        fleet: who submitted it.
        group_id: its id, fit to be shown.
        group: its content.
        fault: the reason, what is wrong with it (the path of a field, or "loss"), and that field's value, fit to be shown.
    """
    payload = group.SerializeToString() if group.ByteSize() <= _LARGEST_PAYLOAD else b""
    return json.dumps(
        {
            "fleet": fleet,
            "time": time.time(),
            "group_id": group_id,
            "reason": fault[0],
            "field": fault[1],
            "value": fault[2],
            "payload": base64.b64encode(payload).decode() or None,
        }
    )


@dataclass(frozen=True)
class Quarantined:
    """A group that is kept.

    Attributes:
        key: names it in commands; 8 hexadecimal digits.
        fleet: who submitted it.
        time: when it was rejected or refused, Unix seconds by the clock of the gateway or learner.
        group_id: its id.
        reason: why it was rejected, or NOT_FINITE.
        field: path of the field that was wrong; of a group that was not finite, what was not.
        value: the field's value.
        payload: the serialized Group; None when it was too large to be kept.
        text: the entry as Redis stores it.
    """

    key: str
    fleet: str
    time: float
    group_id: str
    reason: str
    field: str
    value: str
    payload: bytes | None
    text: bytes

    @classmethod
    def parse(cls, text: bytes) -> Quarantined:
        """Parses an entry as ``quarantine_entry`` makes it.

        Raises:
            QueueError: it is not such an entry.
        """
        key = hashlib.sha256(text).hexdigest()[:8]
        try:
            values = json.loads(text)
            payload = values.pop("payload")
            return cls(key=key, payload=base64.b64decode(payload) if payload else None, text=text, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise QueueError(f"quarantine entry {key} was not written by Leeway ({error}): purge it") from error


class Quarantine:
    """A run's quarantine. Every method raises QueueError when Redis cannot be used.

    Args:
        config: where the queue is.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._client = connect(config)
        self._key = Keys(config.run).quarantine

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def entries(self) -> list[Quarantined]:
        """Reads all entries, newest first."""
        with translated():
            texts: Any = self._client.lrange(self._key, 0, -1)
        return [Quarantined.parse(text) for text in texts]

    def remove(self, entries: Sequence[Quarantined]) -> int:
        """Deletes entries and returns how many of them were still there."""
        with translated():
            return sum(int(self._client.lrem(self._key, 1, entry.text)) for entry in entries)  # pyright: ignore

    def purge(self) -> int:
        """Deletes all entries, unreadable ones too, and returns how many there were."""
        with translated(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.llen(self._key)
            pipeline.delete(self._key)
            return pipeline.execute()[0]

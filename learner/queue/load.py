"""Writes a dump of a run into a Redis that has nothing of the run's groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Self

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.dump_record import PAYLOAD, DumpRecord, pairs
from learner.queue.errors import QueueError
from learner.queue.keys import GROUP, Keys
from learner.queue.recount import literal

_BATCH_BYTES = 4 << 20
_MEMBERS = 1000  # of a collection that are written at once


class QueueLoad:
    """Writes records; a context manager. Every method raises QueueError when Redis cannot be used.

    The numbers by which processes recognise the data come last, and only if nobody has begun to use this Redis meanwhile:
    until then it is no run's.

    Args:
        config: where the queue is to be.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._client = connect(config)
        self._config = config
        self._keys = Keys(config.run)
        self._loading = self._keys.schema.removesuffix("schema") + "loading"  # there while a load is not complete
        self._last: dict[str, bytes] = {}
        self._pipeline = self._client.pipeline(transaction=False)
        self._waiting = 0  # bytes in the pipeline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def require_empty(self) -> None:
        """Raises QueueError if groups of this run were accepted there, other than by a load that was cut off."""
        with translated():
            if not self._client.exists(self._loading) and (accepted := self._accepted()):
                raise QueueError(
                    f"Redis has data of run {self._config.run!r} ({accepted:,} groups were accepted there): a restore writes "
                    "into an empty one only; give the address of another server, or delete this run's keys first"
                )

    def begin(self) -> None:
        """Deletes what a load that was cut off, or processes that found nothing, have left under the run's name.

        Raises:
            QueueError: groups of this run were accepted there.
        """
        self.require_empty()
        with translated():
            prefix = self._keys.schema.removesuffix("schema")
            names = list(self._client.scan_iter(match=literal(prefix) + "*", count=1000))
            self._client.set(self._loading, 1)
            for batch in _batches([name for name in names if name.decode() != self._loading], _MEMBERS):
                self._client.delete(*batch)

    def put(self, record: DumpRecord) -> None:
        """Writes a key. Streams of fleets get the learner's group, to which nothing was delivered."""
        keys, key, pipeline = self._keys, record.key, self._pipeline
        if record.kind == PAYLOAD:
            pipeline.set(key, record.value)
        elif key in (keys.schema, keys.nonce):
            self._last[key] = record.content()
        else:
            if key.startswith(keys.stream_prefix):
                pipeline.xgroup_create(key, GROUP, "0", mkstream=True)
            for command in _commands(record):
                pipeline.execute_command(*command)
            if record.ttl >= 0:
                pipeline.expire(key, max(1, record.ttl))
        self._waiting += len(record.value)
        if self._waiting > _BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """Makes the data the run's. Raises QueueError if somebody has begun to use this Redis meanwhile."""
        self._flush()
        keys = self._keys
        with translated(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.set(keys.schema, self._last[keys.schema], nx=True)
            pipeline.set(keys.nonce, self._last[keys.nonce], nx=True)
            written: list[Any] = pipeline.execute()
            if not all(written):
                raise QueueError(
                    f"a gateway or a learner of run {self._config.run!r} has begun to use this Redis while it was "
                    "restored: stop them, and restore again"
                )
            self._client.delete(self._loading)

    def _accepted(self) -> int:
        fleets: Any = self._client.smembers(self._keys.fleets)
        counts: list[Any] = [self._client.hget(self._keys.ledger(name.decode()), "accepted") for name in fleets]
        return sum(int(count or 0) for count in counts)

    def _flush(self) -> None:
        self._waiting = 0
        with translated():
            self._pipeline.execute()


def _commands(record: DumpRecord) -> Iterator[list[Any]]:
    """Commands that write a record's content."""
    content: Any = record.content()
    if record.kind == "string":
        yield ["SET", record.key, content]
    elif record.kind == "hash":
        for batch in _batches(list(pairs(content).items()), _MEMBERS):
            yield ["HSET", record.key, *(part for pair in batch for part in pair)]
    elif record.kind == "zset":
        for batch in _batches(list(pairs(content).items()), _MEMBERS):
            yield ["ZADD", record.key, *(part for member, score in batch for part in (score, member))]
    elif record.kind in ("list", "set"):
        for batch in _batches(content, _MEMBERS):
            yield ["RPUSH" if record.kind == "list" else "SADD", record.key, *batch]
    elif record.kind == "stream":
        for entry_id, fields in content:
            yield ["XADD", record.key, entry_id, *fields]
    else:
        raise QueueError(f"{record.key}: a key of kind {record.kind!r} cannot be restored: written by a newer leeway?")


def _batches(values: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    waiting = iter(values)
    while batch := list(islice(waiting, size)):
        yield batch

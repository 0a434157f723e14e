"""The version of the data model in Redis, and what to do when a run is of another one.

A learner brings an older run to its own schema as it starts: the run's older learner is fenced by then, and an older
gateway does no harm. A gateway has no such fence: it waits, NOT_SERVING, until a learner has done it. Nobody touches
newer data.

Schema 1 had entries {id, tokens, generated, responses}, and ledgers without bytes_done, redelivered, retried:<reason> and
reward:<outcome>:<bucket>. Schema 2 has them, and entries have bytes and reward.
"""

from __future__ import annotations

from typing import Any

import redis
import structlog

from learner.queue.connect import translated
from learner.queue.errors import QueueError, UnavailableError
from learner.queue.keys import Keys
from learner.queue.redis_session import RedisSession

SCHEMA = "2"
_OLDER = ("1",)


class OutdatedError(UnavailableError):
    """The run's data is of an older schema, and no learner of this release has started since."""


def check_gateway_schema(found: bytes | None, keys: Keys) -> None:
    """Whether a gateway may append to the run; ``found`` is the value of ``keys.schema``, None for a new run.

    Raises:
        OutdatedError: not yet.
        QueueError: not with this release.
    """
    _refuse_unknown(found, keys)
    if found is not None and found.decode() in _OLDER:
        raise OutdatedError(
            f"{keys.schema} = {found.decode()!r}, ours is {SCHEMA!r}: waiting for a learner of this release, which migrates "
            "the run as it starts"
        )


def check_learner_schema(client: redis.Redis, keys: Keys) -> None:
    """Before a learner starts: marks a new run. Raises QueueError when the run's data is newer than we are."""
    with translated():
        found: Any = client.get(keys.schema)
        if found is None:
            client.set(keys.schema, SCHEMA, nx=True)
    _refuse_unknown(found, keys)


def migrate(session: RedisSession, keys: Keys, epoch: int) -> None:
    """Brings an older run to our schema, in one script under the epoch's fence; nothing when it is there already.

    Raises:
        FencedError: a newer learner has started.
    """
    arguments = [epoch, keys.stream_prefix, keys.ledger_prefix, keys.payload_prefix]
    fleets = session.call("migrate", [keys.epoch, keys.schema, keys.fleets], arguments)
    if fleets:
        structlog.get_logger(process="learner").info("run migrated", schema=SCHEMA, fleets=fleets)


def _refuse_unknown(found: bytes | None, keys: Keys) -> None:
    if found is not None and found.decode() not in (*_OLDER, SCHEMA):
        raise QueueError(
            f"{keys.schema} = {found.decode()!r}: the run was written by a newer release; this one understands schema "
            f"{SCHEMA!r} and older: use that release, or a new run name"
        )

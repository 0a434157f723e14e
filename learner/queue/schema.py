"""The number of the layout that a run's data has in Redis; data of any other number is refused."""

from __future__ import annotations

from learner.queue.errors import QueueError
from learner.queue.keys import Keys

SCHEMA = "4"


def require_schema(stored: bytes | None, keys: Keys) -> None:
    """Refuses a run whose data this release cannot read.

    Args:
        stored: the value of ``keys.schema``; None for a new run.
        keys: the run's keys.

    Raises:
        QueueError: the data is of another schema.
    """
    if stored is not None and stored != SCHEMA.encode():
        raise QueueError(
            f"{keys.schema} = {stored.decode()!r}: another release wrote this run's data, this one reads schema {SCHEMA!r} "
            "only: use that release, or a new run name"
        )

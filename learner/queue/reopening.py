"""Takes back that a run has finished, before the learner that has more steps to make is up."""

from __future__ import annotations

import contextlib

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.keys import Keys


def reopen(config: QueueConfig) -> None:
    """Makes a run that has finished take groups again. A learner that begins does this too, but its workers start sooner.

    Raises:
        QueueError: Redis does not answer or refuses us.
    """
    with contextlib.closing(connect(config)) as client, translated():
        client.hdel(Keys(config.run).progress, "finished")

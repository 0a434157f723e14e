"""What the learner does now, as it tells everybody who asks a gateway."""

from __future__ import annotations

import contextlib

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.errors import QueueError
from learner.queue.keys import Keys

_FORGOTTEN_S = 30  # a learner of which nothing was heard for so long is gone, as far as anybody can tell


class LearnerHeartbeat:
    """Keeps in Redis what the learner does, until it says nothing more for 30 s. Has a connection of its own.

    Args:
        config: where the queue is.

    Raises:
        QueueError: the queue's address cannot be used.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._client = connect(config)
        self._key = Keys(config.run).activity

    def beat(self, what: str) -> None:
        """Says what the learner does, in a word: "training", or what it waits for. Nothing happens while Redis is away."""
        # An outage is noticed, counted and waited for where the queue is used.
        with contextlib.suppress(QueueError), translated():
            self._client.set(self._key, what, ex=_FORGOTTEN_S)

    def close(self) -> None:
        """Says that the learner is gone, and closes the connection."""
        with contextlib.suppress(QueueError), translated():
            self._client.delete(self._key)
        self._client.close()

"""How far a run has come, as its learner has reported it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.errors import QueueError
from learner.queue.keys import Keys


@dataclass(frozen=True)
class Progress:
    """What a run's learner has reported.

    Attributes:
        epoch: number of the newest learner's start; 0: there was none.
        step: optimizer steps done.
        uncommitted: groups that steps were made with and that are in no durable checkpoint yet.
        reported_at: when the last step was reported, Unix seconds by Redis' clock; None: none was.
        finished: whether the run has made all its steps.
        activity: what the learner does now, in a word; None: nothing was heard of it for 30 s.
        numbers: numbers of the last step, by their names in learner.jsonl.
    """

    epoch: int = 0
    step: int = 0
    uncommitted: int = 0
    reported_at: float | None = None
    finished: bool = False
    activity: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, stored: Mapping[bytes, bytes], activity: bytes | None) -> Progress:
        """Parses the hash that report.lua and begin.lua write, and the learner's heartbeat.

        Raises:
            QueueError: it was not written by Leeway.
        """
        try:
            reported = stored.get(b"reported")
            return cls(
                epoch=int(stored.get(b"epoch", 0)),
                step=int(stored.get(b"step", 0)),
                uncommitted=int(stored.get(b"uncommitted", 0)),
                reported_at=None if reported is None else float(reported),
                finished=b"finished" in stored,
                activity=None if activity is None else activity.decode(),
                numbers={name: float(value) for name, value in json.loads(stored.get(b"numbers", b"{}")).items()},
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise QueueError(f"the learner's progress in Redis was not written by Leeway ({error})") from error


def read_progress(config: QueueConfig) -> Progress:
    """Reads the progress of a run.

    Raises:
        QueueError: Redis cannot be read.
    """
    keys = Keys(config.run)
    with contextlib.closing(connect(config)) as client, translated():
        stored: Any = client.hgetall(keys.progress)
        activity: Any = client.get(keys.activity)
    return Progress.parse(stored, activity)

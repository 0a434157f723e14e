"""What a run's queue knows of its versions."""

from __future__ import annotations

from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory
from learner.queue import QueueError
from learner.queue.publications import Publications, read_publications


def publications_of(run: RunDirectory) -> Publications | None:
    """From the running Redis, or from one started on the run's data for this moment; None when there is none to ask.

    Raises:
        SettingsError: run.json is damaged.
    """
    try:
        with queue_of(run) as config:
            return read_publications(config)
    except QueueError:
        return None

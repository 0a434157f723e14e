"""Which of a run's versions are registered in its queue, and which fleets run them."""

from __future__ import annotations

from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.queue import QueueError
from learner.queue.versions_in_use import VersionsInUse, read_versions_in_use


def publications_of(run: RunDirectory) -> VersionsInUse | None:
    """Reads what the queue knows of a run's versions; None when its Redis cannot be read.

    The running Redis is asked, or one that is started for this purpose on the run's data.

    Raises:
        SettingsError: run.json is damaged.
    """
    try:
        with queue_of(run) as config:
            return read_versions_in_use(config, RunFile.read(run.root).best_metric)
    except QueueError:
        return None

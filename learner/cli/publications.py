"""What a run's queue knows of its versions."""

from __future__ import annotations

from learner.cli.layout import RunDirectory
from learner.cli.runfile import EMBEDDED, RunFile
from learner.queue import EmbeddedRedis, QueueError
from learner.queue.publications import Publications, read_publications


def publications_of(run: RunDirectory) -> Publications | None:
    """From the running Redis, or from one started on the run's data for this moment; None when there is none to ask.

    Raises:
        SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    identity = run.identity(run_file.run.name)
    try:
        if run_file.queue.url == EMBEDDED:
            with EmbeddedRedis.serving(run.redis) as url:
                return read_publications(url, identity)
        return read_publications(run_file.queue.url, identity)
    except QueueError:
        return None

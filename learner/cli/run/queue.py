"""Access to a run's queue for commands that read or change it while `leeway up` may or may not be running."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.sections import EMBEDDED
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis


@contextlib.contextmanager
def queue_of(run: RunDirectory) -> Iterator[QueueConfig]:
    """Yields the settings of the run's queue: in the running Redis, or in one started on the run's data for this block.

    Raises:
        QueueError: no Redis has ever run there, or it does not start.
        SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    identity = run.identity(run_file.run.name)
    if run_file.queue.url == EMBEDDED:
        with EmbeddedRedis.serving(run.redis) as url:
            yield run_file.queue_config(url, identity)
    else:
        yield run_file.queue_config(run_file.queue.url, identity)

"""Log files of child processes that stay small while their writers go on."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def keep_small(log: Path, most_bytes: int) -> None:
    """Moves the content of a log that has become longer to a file beside it, ``.1``, in place of what was there.

    Its writers go on: they append to the file, which is empty again. A line that is written in that moment may be lost.

    Args:
        log: the file; nothing happens where there is none.
        most_bytes: its length at which that is done; twice that is on disk.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > most_bytes:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)

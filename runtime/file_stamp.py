"""Whether a file has been replaced since it was last read."""

from __future__ import annotations

from pathlib import Path

FileStamp = tuple[int, int, int] | None


def stamp(path: Path) -> FileStamp:
    """Returns what changes whenever the file is written or replaced, by a link's new target too; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino

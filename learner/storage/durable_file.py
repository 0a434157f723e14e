"""A file of known size that goes to the disk while it is written, so that little is left to wait for at the end.

The kernel would begin when a tenth of memory is dirty, which a version seldom makes it: copying into the page cache and
writing to the disk would follow each other. Linux only, and requests only: a file system that knows neither call takes the
file all the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from types import TracebackType

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h: begin, and do not wait
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AT_ONCE = 1 << 23  # bytes; less costs more calls, more leaves the disk idle at the beginning


class DurableFile:
    """Written from beginning to end; a context manager. Methods raise OSError.

    Args:
        path: made, or emptied.
        size: bytes that will be written; where the file system can, room for them is taken at once.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._written = self._begun = 0
        if size and _libc.fallocate(self._file.fileno(), 0, 0, size) and (error := ctypes.get_errno()) in _NO_ROOM:
            self._file.close()
            raise OSError(error, os.strerror(error), str(path))

    def write(self, piece: memoryview) -> None:
        """Returns when all of it is in the page cache."""
        done = 0
        while done < len(piece):  # an unbuffered write may take less than all of it
            done += self._file.write(piece[done:])
        self._written += done
        if self._written - self._begun >= _AT_ONCE:
            ahead = self._written - self._begun
            _libc.sync_file_range(
                self._file.fileno(), self._begun, ahead, _SYNC_FILE_RANGE_WRITE
            )  # fsync has its errors
            self._begun = self._written

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> DurableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

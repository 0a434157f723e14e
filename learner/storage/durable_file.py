"""A file of known size that goes to the disk while it is written, so that little is left to wait for at the end.

Left alone, the kernel begins to write back when about a tenth of memory is dirty, which one version seldom reaches: copying
into the page cache and writing to the disk would follow each other. So the disk is asked to begin earlier. Linux only; both
calls (fallocate, sync_file_range) are requests: where a file system knows neither, the file is written all the same.
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
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h: begin to write back, do not wait
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AT_ONCE = 1 << 23  # bytes; less costs more calls, more leaves the disk idle at the beginning


class DurableFile:
    """A file that is written from beginning to end; a context manager. Methods raise OSError.

    Args:
        path: the file; an existing one is replaced.
        size: bytes that will be written. Where the file system can, their space is allocated at once, so that a disk
            without enough space is noticed before anything is written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._written = self._begun = 0  # bytes in the page cache; bytes that the disk was asked for
        if size and _libc.fallocate(self._file.fileno(), 0, 0, size) and (error := ctypes.get_errno()) in _NO_SPACE:
            self._file.close()
            raise OSError(error, os.strerror(error), str(path))

    def write(self, piece: memoryview) -> None:
        """Appends ``piece``; returns when all of it is in the page cache."""
        done = 0
        while done < len(piece):  # an unbuffered write may take less than all of it
            done += self._file.write(piece[done:])
        self._written += done
        if self._written - self._begun >= _AT_ONCE:
            length = self._written - self._begun
            # An error here comes back from fsync.
            _libc.sync_file_range(self._file.fileno(), self._begun, length, _SYNC_FILE_RANGE_WRITE)
            self._begun = self._written

    def sync(self) -> None:
        """Returns when what was written is on the disk (fsync)."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> DurableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

"""A file that goes to the disk while it is written: whole on any file system, and refused at once where there is no room."""

from __future__ import annotations

import ctypes
import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.storage import durable_file
from learner.storage.durable_file import DurableFile


class Kernel:
    """Refuses every call, as a file system does that knows neither."""

    def __init__(self, error: int = errno.EOPNOTSUPP) -> None:
        self._error = error
        self.begun: list[tuple[int, int]] = []  # start, length

    def fallocate(self, descriptor: int, mode: int, start: int, length: int) -> int:
        ctypes.set_errno(self._error)
        return -1

    def sync_file_range(self, descriptor: int, start: int, length: int, flags: int) -> int:
        self.begun.append((start, length))
        ctypes.set_errno(self._error)
        return -1


def write(path: Path, pieces: list[bytes]) -> None:
    with DurableFile(path, sum(map(len, pieces))) as file:
        for piece in pieces:
            file.write(memoryview(piece))
        file.sync()


PIECES = [bytes([index]) * length for index, length in enumerate((3, 0, 40, 1, 7, 100, 2))]


def test_what_is_written_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the calls of the kernel we run on; an older and longer file is replaced; nothing to write is a file too."""
    monkeypatch.setattr(durable_file, "_AT_ONCE", 10)
    (tmp_path / "file").write_bytes(b"x" * 1000)
    write(tmp_path / "file", PIECES)
    assert (tmp_path / "file").read_bytes() == b"".join(PIECES)
    write(tmp_path / "file", [])
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_system_that_knows_neither_call_takes_it_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kernel = Kernel()
    monkeypatch.setattr(durable_file, "_libc", kernel)
    monkeypatch.setattr(durable_file, "_AT_ONCE", 10)
    write(tmp_path / "file", PIECES)
    assert (tmp_path / "file").read_bytes() == b"".join(PIECES)
    assert kernel.begun == [(0, 43), (43, 108)]  # each byte once, the last few left to fsync


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int):
    monkeypatch.setattr(durable_file, "_libc", Kernel(error))
    with pytest.raises(OSError, match="file") as refused:
        DurableFile(tmp_path / "file", 10)
    assert refused.value.errno == error


@pytest.fixture
def limit() -> Iterator[int]:
    """Bytes that a file of this process may have."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield 1 << 20
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_beyond_what_the_kernel_grants_is_refused(tmp_path: Path, limit: int):
    with pytest.raises(OSError) as refused:
        DurableFile(tmp_path / "file", limit + 1)
    assert refused.value.errno == errno.EFBIG
    write(tmp_path / "file", [bytes(limit)])
    assert (tmp_path / "file").stat().st_size == limit

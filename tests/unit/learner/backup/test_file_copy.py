"""Tests of copying a backup back: a disk that is full is not a backup that is damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from learner.backup import file_copy
from learner.backup.errors import BackupError
from learner.backup.file_copy import fetch
from learner.backup.progress import CopyProgress
from learner.backup.store import BackupStore
from learner.storage.digests import FileDigest
from runtime import transfer
from runtime.digest import of_file


@pytest.fixture
def kept(tmp_path: Path) -> tuple[BackupStore, dict[str, FileDigest]]:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_bytes(b"content")
    return BackupStore(str(tmp_path / "kept")), {"a": FileDigest(*of_file(tmp_path / "kept" / "a", "blake3"))}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_said_as_such(
    kept: tuple[BackupStore, dict[str, FileDigest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(transfer, "_PAUSES_S", (0.0, 0.0))
    with monkeypatch.context() as disk:
        disk.setattr(file_copy.os, "fsync", full)
        with pytest.raises(
            BackupError, match=r"out/a: there is no room for its 7 bytes .*make room, and restore again"
        ):
            fetch(*kept, tmp_path / "out", CopyProgress())
    fetch(*kept, tmp_path / "out", CopyProgress())
    assert (tmp_path / "out" / "a").read_bytes() == b"content"


def test_what_cannot_be_read_is_another_thing(kept: tuple[BackupStore, dict[str, FileDigest]], tmp_path: Path):
    store, files = kept
    (tmp_path / "kept" / "a").unlink()
    with pytest.raises(BackupError, match=r"kept/a: cannot be read .*use another backup"):
        fetch(store, files, tmp_path / "out", CopyProgress())

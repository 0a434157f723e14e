"""Tests of the places of backups: a directory, an object store, and URIs that are neither."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

import pytest

from learner.backup.errors import BackupError
from learner.backup.store import BackupStore


@pytest.fixture(params=["directory", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BackupStore:
    if request.param == "directory":
        return BackupStore(str(tmp_path / "a place"))
    return BackupStore(f"memory://bucket/{uuid.uuid4().hex}/")


def test_what_is_written_is_read_listed_and_removed(store: BackupStore):
    assert store.names() == []
    store.put("b/one", b"1")
    store.put("b/one", b"12")
    with store.writing("b/deep/two") as file:
        file.write(b"two")
        file.write(b"three")
    store.below("c").put("x", b"")
    assert store.names() == ["b", "c"]
    assert (store.get("b/one"), store.get("b/deep/two")) == (b"12", b"twothree")
    with store.reading("b/one") as file:
        assert file.read(9) == b"12"
    assert [store.exists(name) for name in ("b/one", "b/none", "c/x")] == [True, False, True]
    store.remove("b")
    store.remove("b")
    assert store.names() == ["c"]


def test_a_directory_of_backups_is_closed_to_other_users(tmp_path: Path):
    BackupStore((tmp_path / "kept").as_uri()).put("name/file", b"")
    assert stat.S_IMODE((tmp_path / "kept" / "name").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3:///path", "no bucket or host"),
        ("file:///a/../b", r"a path with \.\."),
        ("zip::file:///a.zip", "no scheme|chain of file systems"),
        ("nosuch://bucket/path", "see that its fsspec client is installed"),
    ],
)
def test_what_is_no_place_is_refused(uri: str, message: str):
    with pytest.raises(BackupError, match=message):
        BackupStore(uri)

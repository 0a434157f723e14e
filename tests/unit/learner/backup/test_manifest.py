"""Tests of a backup's manifest, and of finding the newest complete backup."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from learner.backup.errors import BackupError
from learner.backup.manifest import MANIFEST, BackupManifest, backups_in, new_name, newest_backup, read_manifest
from learner.backup.store import BackupStore
from learner.queue.witness import Witness
from learner.storage.digests import FileDigest
from runtime import transfer

SEEN = Witness("nonce", 5, 1, 12, {"alpha": 1000, "beta": 7}, {"alpha": 900, "beta": 7})
KEPT = BackupManifest(
    "demo",
    1.5,
    "step_00000012_e0001",
    12,
    SEEN.plain(),
    {"alpha": 100},
    "file:///w",
    {"a/b": FileDigest(3, "blake3:00")},
)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path):
    store = BackupStore(str(tmp_path))
    KEPT.write(store)
    assert read_manifest(store) == KEPT
    assert KEPT.seen == SEEN
    assert KEPT.account() == "step 12, 1,007 groups accepted, 907 trained, 100 waiting"
    assert KEPT.size == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"step": 12', '"step": 13', "damaged"),
        ('"schema": 1', '"schema": 2', "schema 2, this version of leeway reads 1"),
        ('"backup"', '"other"', "no manifest of a complete backup"),
        ("{", "", "no manifest of a complete backup"),
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_refused(tmp_path: Path, old: str, new: str, message: str):
    store = BackupStore(str(tmp_path))
    KEPT.write(store)
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BackupError, match=f"{MANIFEST}.*{message}"):
        read_manifest(store)


def test_a_manifest_that_cannot_be_read_now_is_not_one_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = BackupStore(str(tmp_path))
    with pytest.raises(BackupError, match="no manifest of a complete backup: name another one"):
        read_manifest(store)
    KEPT.write(store)

    def stale(path: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "read_bytes", stale)
    monkeypatch.setattr(transfer, "_PAUSES_S", ())
    with pytest.raises(BackupError, match=r"cannot be read now .*Stale file handle.*try again"):
        read_manifest(store)


def test_the_newest_complete_backup_is_found(tmp_path: Path):
    store, names = BackupStore(str(tmp_path)), [new_name() for _ in range(3)]
    with pytest.raises(BackupError, match="there is no complete backup"):
        newest_backup(store)
    for name in names[:2]:
        KEPT.write(store.below(name))
    (tmp_path / names[2]).mkdir()
    (tmp_path / "something else").mkdir()
    assert set(backups_in(store)) == set(names)
    assert newest_backup(store).uri.rpartition("/")[2] == max(names[:2])
    assert newest_backup(store.below(names[0])).uri.endswith(names[0])

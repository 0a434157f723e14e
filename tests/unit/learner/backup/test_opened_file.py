"""Tests of files that are opened at one instant and copied later."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backup.opened_file import OpenedFile, opened_tree


@pytest.mark.parametrize(
    ("content", "whole"), [(b"a\nb\n", b"a\nb\n"), (b"a\nhalf", b"a\n"), (b"half", b""), (b"", b"")]
)
def test_of_a_record_that_grows_only_whole_lines_count(tmp_path: Path, content: bytes, whole: bytes):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    with OpenedFile("lines", path, lines=True) as file:
        with path.open("ab") as more:
            more.write(b"more\n")
        assert (file.size, file.read(0, 99), file.read(1, 1)) == (len(whole), whole, whole[1:2])


def test_a_tree_is_opened_whole_and_stays_when_it_is_removed(tmp_path: Path):
    (tmp_path / "c" / "deep").mkdir(parents=True)
    (tmp_path / "c" / "deep" / "two").write_bytes(b"2")
    (tmp_path / "c" / "one").write_bytes(b"1")
    files = list(opened_tree(tmp_path / "c", "checkpoints/c/"))
    (tmp_path / "c" / "one").unlink()
    assert {file.name: file.read(0, 9) for file in files} == {"checkpoints/c/deep/two": b"2", "checkpoints/c/one": b"1"}
    for file in files:
        with file:
            pass
    with pytest.raises(FileNotFoundError):
        list(opened_tree(tmp_path / "gone", ""))

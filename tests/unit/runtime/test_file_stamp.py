"""The stamp of a file changes with every way of replacing it."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.file_stamp import stamp


def test_each_way_of_replacing_a_file_changes_its_stamp(tmp_path: Path):
    file, other = tmp_path / "file", tmp_path / "other"
    assert stamp(file) is None
    file.write_text("a")
    seen = {stamp(file)}
    os.utime(file, ns=(1, 1))
    seen.add(stamp(file))
    other.write_text("b")
    os.utime(other, ns=(1, 1))
    other.replace(file)
    seen.add(stamp(file))
    file.unlink()
    (tmp_path / "first").write_text("c")
    file.symlink_to("first")  # as a mounted Secret is
    linked = stamp(file)
    (tmp_path / "second").write_text("c")
    file.unlink()
    file.symlink_to("second")
    assert None not in seen
    assert len(seen) == 3
    assert stamp(file) != linked

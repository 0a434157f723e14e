"""What is wrong with a file is said with what was found and what was expected; everything is looked at."""

from __future__ import annotations

from pathlib import Path

from runtime.digest import of_file
from runtime.version_format.file_check import ExpectedFile, faults_of


def expected(path: Path, algorithm: str = "blake3") -> ExpectedFile:
    return ExpectedFile(path.name, *of_file(path, algorithm))


def test_sound_files_have_no_faults_in_either_algorithm(tmp_path: Path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name * 100)
    assert faults_of(tmp_path, [expected(path, "sha256") for path in paths] + [expected(paths[0])]) == []


def test_every_fault_is_named_in_the_given_order(tmp_path: Path):
    paths = [tmp_path / name for name in ("longer", "changed", "gone", "sound")]
    for path in paths:
        path.write_text("content")
    files = [expected(path) for path in paths] + [ExpectedFile("sound", 7, "crc32:0011")]
    (tmp_path / "longer").write_text("content and more")
    (tmp_path / "changed").write_text("Content")
    (tmp_path / "gone").unlink()
    longer, changed, gone, algorithm = faults_of(tmp_path, files, threads=2)
    assert str(longer) == "longer: size 16, expected 7"
    assert (changed.name, changed.kind) == ("changed", "digest")
    assert changed.reason == f"{of_file(tmp_path / 'changed')[1]}, expected {files[1].digest}"
    assert str(gone) == f"gone: missing in {tmp_path}"
    assert str(algorithm) == (
        "sound: digest algorithm 'crc32' is not known, only blake3 and sha256: written by a newer leeway?"
    )

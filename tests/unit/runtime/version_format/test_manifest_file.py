"""A manifest is read only when it is the expected file, is a manifest, and has our schema."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from leeway.v1 import manifest_pb2
from runtime.version_format.manifest_file import SCHEMA, ManifestError, read_manifest_into

CONTENT = f'{{"schema": {SCHEMA}, "version": 7, "from_the_future": true}}'


def read(directory: Path, content: str, sha256: str | None = None) -> manifest_pb2.Manifest:
    (directory / "manifest.json").write_text(content)
    return read_manifest_into(manifest_pb2.Manifest(), directory, sha256)


def test_a_manifest_is_read_and_unknown_fields_are_ignored(tmp_path: Path):
    assert read(tmp_path, CONTENT, hashlib.sha256(CONTENT.encode()).hexdigest()).version == 7


@pytest.mark.parametrize(
    ("content", "sha256", "field"),
    [
        ("{", None, "manifest.json"),
        ('{"version": "seven"}', None, "manifest.json"),
        (CONTENT, "00" * 32, "manifest.json sha256"),
        ('{"schema": 1}', None, "manifest.schema"),
        ('{"schema": 3}', None, "manifest.schema"),
        ("{}", None, "manifest.schema"),
    ],
)
def test_anything_else_is_refused_with_the_field(tmp_path: Path, content: str, sha256: str | None, field: str):
    with pytest.raises(ManifestError) as refused:
        read(tmp_path, content, sha256)
    assert refused.value.field == field


def test_a_manifest_that_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"manifest\.json: cannot be read: .*No such file"):
        read_manifest_into(manifest_pb2.Manifest(), tmp_path)

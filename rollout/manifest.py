"""Reading a published version's manifest, and whether the files are what it says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format

from leeway.v1 import manifest_pb2

MANIFEST = "manifest.json"


class VersionError(Exception):
    """A version that must not be loaded.

    Attributes:
        field: what is wrong, such as "files[model.safetensors].sha256".
        value: what was found, and what was expected.
    """

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field}: {value}")
        self.field = field
        self.value = value


def local_path(uri: str) -> Path:
    """The directory behind a file:// URI. Raises VersionError for any other scheme."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise VersionError("policy.uri", f"{uri!r}: this worker reads file:///... only")
    return Path(unquote(parts.path))


def read_manifest(directory: Path, sha256: str | None = None) -> manifest_pb2.Manifest:
    """A version's manifest; ``sha256``: what its announcement says of it. Raises VersionError."""
    content = read(directory / MANIFEST)
    if sha256 is not None:
        expect("manifest.json sha256", hashlib.sha256(content).hexdigest(), sha256)
    try:
        return json_format.Parse(content, manifest_pb2.Manifest(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise VersionError("manifest.json", f"not a manifest: {error}") from error


def verify_file(directory: Path, file: manifest_pb2.ManifestFile) -> None:
    """Reads every byte. Raises VersionError."""
    field = f"files[{file.name}]"
    if not file.name or Path(file.name).name != file.name:
        raise VersionError(field, "a name with path separators")
    path = directory / file.name
    if not path.is_file():
        raise VersionError(field, f"missing in {directory}")
    expect(f"{field}.size", path.stat().st_size, file.size)
    with path.open("rb") as content:
        expect(f"{field}.sha256", hashlib.file_digest(content, "sha256").hexdigest(), file.sha256)


def read(path: Path) -> bytes:
    """A file's content. Raises VersionError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise VersionError(path.name, f"cannot be read: {error}") from error


def expect(field: str, found: object, expected: object) -> None:
    """Raises VersionError unless they are equal."""
    if found != expected:
        raise VersionError(field, f"{found}, expected {expected}")

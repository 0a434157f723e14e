"""Reading a published version's manifest, and whether the files are what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from google.protobuf import json_format

from leeway.v1 import manifest_pb2
from runtime.digest import DigestError, algorithm_of, of_file
from runtime.errors import MISCONFIGURED, LeewayError

MANIFEST = "manifest.json"
_READERS = 4  # threads: hashing releases the interpreter lock


class VersionError(LeewayError):
    """A version that must not be loaded.

    Attributes:
        field: what is wrong, such as "files[model.safetensors].digest".
        value: what was found, and what was expected.
    """

    exit_status = MISCONFIGURED

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field}: {value}")
        self.field = field
        self.value = value


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
    path = directory / plain(file.name)
    if not path.is_file():
        raise VersionError(field, f"missing in {directory}")
    expect(f"{field}.size", path.stat().st_size, file.size)
    digest = file.digest or f"sha256:{file.sha256}"  # manifests of schema 1
    try:
        found = of_file(path, algorithm_of(digest))[1]
    except (OSError, DigestError) as error:
        raise VersionError(f"{field}.digest", str(error)) from error
    expect(f"{field}.digest", found, digest)


def verify_files(directory: Path, files: Iterable[manifest_pb2.ManifestFile]) -> None:
    """The same for several, a few at a time: there is one for every rank of the learner. Raises VersionError."""
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(partial(verify_file, directory), files):
            pass


def plain(name: str) -> str:
    """A file's name, when it is no more than that. Raises VersionError."""
    if not name or Path(name).name != name:
        raise VersionError(f"files[{name}]", "a name with path separators")
    return name


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

"""Reading a published version's manifest, and verifying files against it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leeway.v1 import manifest_pb2
from runtime.errors import MISCONFIGURED, LeewayError
from runtime.version_format.file_check import ExpectedFile, faults_of
from runtime.version_format.manifest_file import ManifestError, read_manifest_into


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


class FetchError(VersionError):
    """A version that could not be read now, for a reason that may pass: it is worth another attempt."""


def read_manifest(directory: Path, sha256: str | None = None) -> manifest_pb2.Manifest:
    """Reads the manifest of the version in ``directory``.

    Args:
        directory: the version's directory.
        sha256: SHA-256 of manifest.json as the version's announcement gives it; None skips that check.

    Raises:
        VersionError: it is missing, malformed, not the announced one, or of another schema.
    """
    try:
        return read_manifest_into(manifest_pb2.Manifest(), directory, sha256)
    except ManifestError as error:
        raise VersionError(error.field, error.value) from error


def verify_files(directory: Path, files: Iterable[manifest_pb2.ManifestFile]) -> None:
    """Reads every byte of ``files`` in ``directory``, several files at a time.

    Raises:
        VersionError: the first file that is missing or differs in size or digest.
    """
    expected = [ExpectedFile(plain(file.name), file.size, file.digest) for file in files]
    for fault in faults_of(directory, expected):
        field = f"files[{fault.name}]"
        if fault.kind == "missing":
            raise VersionError(field, f"missing {fault.reason}")
        raise VersionError(f"{field}.{fault.kind}", fault.reason)


def plain(name: str) -> str:
    """Returns ``name`` when it is a plain file name. Raises VersionError when it is empty or has path separators."""
    if not name or Path(name).name != name:
        raise VersionError(f"files[{name}]", "a name with path separators")
    return name


def expect(field: str, found: object, expected: object) -> None:
    """Raises VersionError unless ``found`` equals ``expected``."""
    if found != expected:
        raise VersionError(field, f"{found}, expected {expected}")

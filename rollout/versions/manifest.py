"""Reading a published version's manifest, and verifying files against it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
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


class UnreadableError(FetchError):
    """A file that is there and that the disk does not give; another copy of it may be had."""


@contextlib.contextmanager
def disk_errors_pass(field: str) -> Iterator[None]:
    """Context in which an error of the disk, such as a full one, may pass: only what was read shows that a version is wrong.

    Args:
        field: what is read or written, for the message.

    Raises:
        FetchError: there was an OSError.
    """
    try:
        yield
    except OSError as error:
        raise FetchError(field, str(error)) from error


def read_manifest(directory: Path, sha256: str | None = None) -> manifest_pb2.Manifest:
    """Reads the manifest of the version in ``directory``.

    Args:
        directory: the version's directory.
        sha256: SHA-256 of manifest.json as the version's announcement gives it; None skips that check.

    Raises:
        UnreadableError: the disk gave an error.
        VersionError: it is missing, malformed, not the announced one, or of another schema.
    """
    try:
        return read_manifest_into(manifest_pb2.Manifest(), directory, sha256)
    except ManifestError as error:
        cause = error.__cause__
        passes = isinstance(cause, OSError) and not isinstance(cause, (FileNotFoundError, NotADirectoryError))
        raise (UnreadableError if passes else VersionError)(error.field, error.value) from error


def verify_files(directory: Path, files: Iterable[manifest_pb2.ManifestFile]) -> None:
    """Reads every byte of ``files`` in ``directory``, several files at a time.

    Raises:
        VersionError: the first file that is missing or differs in size or digest.
        UnreadableError: no file does, and the disk gave an error for one.
    """
    expected = [ExpectedFile(plain(file.name), file.size, file.digest) for file in files]
    # What is wrong comes first: no other attempt would mend that.
    for fault in sorted(faults_of(directory, expected), key=lambda fault: fault.kind == "unreadable"):
        field = f"files[{fault.name}]"
        if fault.kind == "unreadable":
            raise UnreadableError(field, f"cannot be read: {fault.reason}")
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

"""Reading a version's manifest.json into the message that the caller passes: this package does not know the protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from runtime.version_format.names import MANIFEST

SCHEMA = 2

MessageT = TypeVar("MessageT", bound=Message)


class ManifestError(ValueError):
    """A manifest that must not be used.

    Attributes:
        field: what is wrong: "manifest.json", "manifest.json sha256" or "manifest.schema".
        value: what was found, and what was expected.
    """

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field}: {value}")
        self.field = field
        self.value = value


def read_manifest_into(message: MessageT, directory: Path, sha256: str | None = None) -> MessageT:
    """Fills an empty ``Manifest`` message from a version's directory. Fields that it does not know are ignored.

    Args:
        message: an empty leeway.v1.Manifest.
        directory: the version's directory.
        sha256: expected SHA-256 of the file, in hexadecimal; None skips that check.

    Returns:
        ``message``.

    Raises:
        ManifestError: the file cannot be read, is not the expected one, is no manifest, or has another schema.
    """
    try:
        content = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise ManifestError(MANIFEST, f"cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ManifestError(f"{MANIFEST} sha256", f"{found}, expected {sha256}")
    try:
        manifest: Any = json_format.Parse(content, message, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ManifestError(MANIFEST, f"not a manifest: {error}") from error
    if manifest.schema != SCHEMA:
        raise ManifestError(
            "manifest.schema", f"{manifest.schema}, expected {SCHEMA}: written by another leeway release"
        )
    return message

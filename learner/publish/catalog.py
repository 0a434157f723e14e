"""Which published versions a directory holds, and what each is based on. No torch: the `leeway` command reads it too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leeway.v1 import manifest_pb2
from runtime.errors import LeewayError
from runtime.version_format.manifest_file import ManifestError, read_manifest_into
from runtime.version_format.names import MANIFEST, version_name

POINTER = "latest"
PINNED = "pinned"


class CatalogError(LeewayError):
    """A version that cannot be read; the message names it and what to do."""


def read_manifest(root: Path, version: int) -> manifest_pb2.Manifest:
    """Reads the manifest of a version under ``root``. Raises CatalogError: missing, malformed or of another schema."""
    directory = root / version_name(version)
    try:
        return read_manifest_into(manifest_pb2.Manifest(), directory)
    except ManifestError as error:
        raise CatalogError(f"{directory / MANIFEST}: no manifest of a version ({error.field} {error.value})") from error


def base_of(root: Path, version: int) -> int | None:
    """Number of the version that a delta applies to; None for a full version. Raises CatalogError."""
    manifest = read_manifest(root, version)
    return manifest.base_version if manifest.HasField("base_version") else None


def with_bases(root: Path, versions: Iterable[int]) -> set[int]:
    """``versions`` and, for each that is a delta, every version it is built on.

    A version whose manifest cannot be read counts as having no base.
    """
    wanted: set[int] = set()
    waiting = list(versions)
    while waiting:
        version = waiting.pop()
        if version in wanted:
            continue
        wanted.add(version)
        try:
            base = base_of(root, version)
        except CatalogError:
            continue
        if base is not None:
            waiting.append(base)
    return wanted


def pinned(root: Path) -> set[int]:
    """Versions that an operator keeps: ``pinned/000012`` is an empty file for version 12."""
    return {int(path.name) for path in (root / PINNED).glob("[0-9]*") if path.name.isdigit()}

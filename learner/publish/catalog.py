"""The published versions in a directory, as they lie there. No torch: the `leeway` command reads it too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import json_format

from leeway.v1 import manifest_pb2
from runtime.errors import LeewayError

POINTER = "latest"
MANIFEST = "manifest.json"
PINNED = "pinned"
_NAME = re.compile(r"weight_v(\d{6,})")


class CatalogError(LeewayError):
    """A version that cannot be read; the message names it and what to do."""


def version_name(version: int) -> str:
    """``weight_v000012``: the layout slime and miles read."""
    return f"weight_v{version:06d}"


def version_of(name: str) -> int | None:
    """The version that a directory of this name holds; None when it is no such name."""
    found = _NAME.fullmatch(name)
    return int(found.group(1)) if found else None


def versions_on_disk(root: Path) -> list[int]:
    """Versions under their final names, orphans too, in order."""
    found = (version_of(path.name) for path in root.glob("weight_v*"))
    return sorted(version for version in found if version is not None)


def read_manifest(root: Path, version: int) -> manifest_pb2.Manifest:
    """Raises CatalogError."""
    path = root / version_name(version) / MANIFEST
    try:
        return json_format.Parse(path.read_bytes(), manifest_pb2.Manifest(), ignore_unknown_fields=True)
    except (OSError, json_format.ParseError) as error:
        raise CatalogError(f"{path}: no manifest of a version ({error})") from error


def base_of(root: Path, version: int) -> int | None:
    """The version that a delta applies to; None for a full one. Raises CatalogError."""
    manifest = read_manifest(root, version)
    return manifest.base_version if manifest.HasField("base_version") else None


def with_bases(root: Path, versions: Iterable[int]) -> set[int]:
    """``versions`` and all that those among them which are deltas need; one that cannot be read needs nothing."""
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
    """Versions that an operator keeps: ``pinned/000012`` is a file for each."""
    return {int(path.name) for path in (root / PINNED).glob("[0-9]*") if path.name.isdigit()}

"""Names of published versions: one directory per version, ``weight_v000012``, the layout that slime and miles read."""

from __future__ import annotations

import re
from pathlib import Path

MANIFEST = "manifest.json"
_VERSION_NAME = re.compile(r"weight_v(\d{6,})")


def version_name(version: int) -> str:
    """Name of a version's directory, such as ``weight_v000012``."""
    return f"weight_v{version:06d}"


def version_of(name: str) -> int | None:
    """Version number that a directory name stands for; None for any other name."""
    found = _VERSION_NAME.fullmatch(name)
    return int(found.group(1)) if found else None


def versions_on_disk(root: Path) -> list[int]:
    """Numbers of the versions in ``root`` under their final names, ascending; orphans (never registered) are included."""
    found = (version_of(path.name) for path in root.glob("weight_v*"))
    return sorted(version for version in found if version is not None)

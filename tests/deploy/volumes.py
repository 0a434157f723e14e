"""Makes volumes of pods as directories: ConfigMaps, Secrets, emptyDirs and claims as a container sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.deploy.podspec import Overlay, Pod


def materialise(overlay: Overlay, pod: Pod, scratch: Path) -> dict[str, Path]:
    """Makes every volume of a pod below ``scratch``; returns volume name -> directory. Pods share claims by name.

    Raises ValueError for a kind of volume that is not known here.
    """
    volumes = {name: _volume(overlay, pod, raw, scratch) for name, raw in pod.volumes.items()}
    volumes |= {name: _writable(scratch / "claims" / claim, pod) for name, claim in pod.claims.items()}
    return volumes


def _volume(overlay: Overlay, pod: Pod, raw: dict[str, Any], scratch: Path) -> Path:
    own = scratch / "pods" / pod.name / raw["name"]
    if "emptyDir" in raw:
        return _writable(own, pod)
    if "persistentVolumeClaim" in raw:
        return _writable(scratch / "claims" / raw["persistentVolumeClaim"]["claimName"], pod)
    own.mkdir(parents=True)
    sources = raw["projected"]["sources"] if "projected" in raw else [raw]
    mode = raw.get("projected", {}).get("defaultMode")
    for source in sources:
        _write(overlay, pod, source, own, mode)
    return own


def _write(overlay: Overlay, pod: Pod, source: dict[str, Any], directory: Path, mode: int | None) -> None:
    if "configMap" in source:
        kind, reference = "ConfigMap", source["configMap"]
    elif "secret" in source:
        kind, reference = "Secret", source["secret"]
    else:
        raise ValueError(f"{pod.name}: a volume of a kind that is not known here: {source}")
    files = overlay.files(kind, reference.get("secretName") or reference["name"])
    items = reference.get("items") or [{"key": key, "path": key} for key in files]
    for item in items:
        if reference.get("optional") and item["key"] not in files:
            continue
        path = directory / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[item["key"]])
        path.chmod(int(item.get("mode") or reference.get("defaultMode") or mode or 0o644))
        if pod.file_group is not None:
            os.chown(path, 0, pod.file_group)


def _writable(directory: Path, pod: Pod) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if pod.file_group is None:
        directory.chmod(0o777)
    else:
        os.chown(directory, 0, pod.file_group)
        directory.chmod(0o2775)
    return directory

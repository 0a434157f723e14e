"""Versions published by hand, as manifest.proto says, for tests of the reading side."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3
from google.protobuf import json_format

from leeway.v1 import manifest_pb2, rollout_pb2


def flip(path: Path) -> None:
    """Damages a file: the lowest bit of its last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def publish(model: Path, root: Path, version: int, config_of: Path | None = None) -> rollout_pb2.Policy:
    """Copies a model directory to root/weight_v..., with its manifest.

    Args:
        config_of: whose config.json the manifest claims; ``model``'s when None.
    """
    directory = root / f"weight_v{version:06d}"
    shutil.copytree(model, directory)
    return seal(directory, version, config_of or model)


def seal(
    directory: Path,
    version: int,
    config_of: Path | None = None,
    changes: dict[str, int] | None = None,
    entries: Mapping[str, dict[str, str]] | None = None,
) -> rollout_pb2.Policy:
    """Writes a manifest of what the directory holds now.

    Args:
        entries: what is said of some files instead of their BLAKE3; see ``sha256``.
    """
    files = [
        manifest_pb2.ManifestFile(
            name=path.name,
            size=path.stat().st_size,
            **(entries or {}).get(path.name, {"digest": f"blake3:{blake3(path.read_bytes()).hexdigest()}"}),
        )
        for path in sorted(directory.iterdir())
        if path.name != "manifest.json"
    ]
    config = hashlib.sha256(((config_of or directory) / "config.json").read_bytes()).hexdigest()
    values: dict[str, Any] = {"schema": 2, "version": version, "step": version, "epoch": 1, **(changes or {})}
    manifest = manifest_pb2.Manifest(dtype="float32", config_sha256=config, files=files, **values)
    content = json_format.MessageToJson(manifest).encode()
    (directory / "manifest.json").write_bytes(content)
    return rollout_pb2.Policy(
        version=version,
        step=version,
        epoch=1,
        uri=directory.as_uri(),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
    )


def sha256(directory: Path) -> dict[str, dict[str, str]]:
    """What manifests of schema 1 say of the files in a directory."""
    return {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in directory.iterdir()}

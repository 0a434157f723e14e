"""Versions written by hand, as proto/leeway/v1/manifest.proto says, for tests of the reading side."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3
from google.protobuf import json_format

from leeway.v1 import manifest_pb2, rollout_pb2
from runtime.version_format.manifest_file import SCHEMA
from runtime.version_format.names import MANIFEST, version_name


def flip(path: Path) -> None:
    """Damages a file: flips the lowest bit of its last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def publish(model: Path, root: Path, version: int, config_of: Path | None = None) -> rollout_pb2.Policy:
    """Copies a model directory to root/weight_v... and writes its manifest; returns its announcement.

    Args:
        config_of: directory whose config.json the manifest claims; ``model`` when None.
    """
    directory = root / version_name(version)
    shutil.copytree(model, directory)
    return write_manifest(directory, version, config_of or model)


def write_manifest(
    directory: Path,
    version: int,
    config_of: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
) -> rollout_pb2.Policy:
    """Writes a manifest of the files that the directory contains now; returns the version's announcement.

    Args:
        config_of: directory whose config.json the manifest claims; ``directory`` when None.
        changes: fields of the manifest that differ from those of a sound one.
        digests: file name -> digest to write instead of the file's own.
    """
    files = [
        manifest_pb2.ManifestFile(
            name=path.name,
            size=path.stat().st_size,
            digest=(digests or {}).get(path.name, f"blake3:{blake3(path.read_bytes()).hexdigest()}"),
        )
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    ]
    config = hashlib.sha256(((config_of or directory) / "config.json").read_bytes()).hexdigest()
    values: dict[str, Any] = {"schema": SCHEMA, "version": version, "step": version, "epoch": 1, **(changes or {})}
    manifest = manifest_pb2.Manifest(dtype="float32", config_sha256=config, files=files, **values)
    content = json_format.MessageToJson(manifest).encode()
    (directory / MANIFEST).write_bytes(content)
    return rollout_pb2.Policy(
        version=version,
        step=version,
        epoch=1,
        uri=directory.as_uri(),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
    )

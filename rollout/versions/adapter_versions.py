"""Versions that are adapters: checked against the model that they change, and merged into it where engines cannot do that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from leeway.v1 import manifest_pb2
from rollout.versions.manifest import VersionError, verify_files
from rollout.versions.merge import Merger
from rollout.versions.node_cache import NodeCache
from runtime.version_format.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterError, adapters_in
from runtime.version_format.base_digest import weights_digest
from runtime.version_format.safetensors_header import HeaderError, read_header

_NAME_DIGITS = 12  # of the manifest's digest
_NAME = re.compile(r"leeway-(\d+)-[0-9a-f]+")


class AdapterVersions:
    """The adapter versions of one model.

    Args:
        model: Hugging Face directory of the base.
        shapes: shapes of its tensors by their names.
        cache: where versions are merged; None refuses that.
    """

    def __init__(self, model: Path, shapes: Mapping[str, tuple[int, ...]], cache: NodeCache | None) -> None:
        self._model = model
        self._shapes = shapes
        self._merger = Merger(cache, model) if cache is not None else None
        self._base: str | None = None  # the digest of the model's weights, once it was needed

    def verify(self, directory: Path, manifest: manifest_pb2.Manifest) -> None:
        """Reads every byte of a version, and at the first call of the base.

        Args:
            directory: directory of the version.
            manifest: its manifest.

        Raises:
            UnreadableError: the disk gave an error.
            VersionError: a file is damaged, the adapter fits no layer of the base, or it changes another base.
        """
        named = {file.name for file in manifest.files}
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if name not in named:
                raise VersionError(f"files[{name}]", "not in the manifest of an adapter version")
        verify_files(directory, manifest.files)
        try:
            adapters_in(read_header(directory / ADAPTER_WEIGHTS).tensors, self._shapes, manifest.adapter.rank)
        except (AdapterError, HeaderError) as error:
            raise VersionError(f"files[{ADAPTER_WEIGHTS}]", str(error)) from error
        if self._base is None:
            self._base = weights_digest(self._model)
        if self._base != manifest.adapter.base:
            raise VersionError(
                "manifest.adapter.base",
                f"{manifest.adapter.base}: the version changes other weights than those of model = {self._model}, "
                f"{self._base}; set model to the directory that the run began with, bit for bit",
            )

    def merge(self, directory: Path, manifest: manifest_pb2.Manifest) -> Path:
        """Returns the directory of the full version that a verified version yields. Raises FetchError, VersionError."""
        if self._merger is None:
            raise VersionError("manifest.adapter", "an adapter, which is to be merged, and there is no cache_dir")
        return self._merger.merge(directory, manifest)


def adapter_name(version: int, sha256: str) -> str:
    """Name of an adapter for engines: another manifest has another name, though the version be the same."""
    return f"leeway-{version}-{sha256[:_NAME_DIGITS]}"


def named_version(name: str) -> int | None:
    """The version of an adapter by its name for engines; None for a name that ``adapter_name`` does not give."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])

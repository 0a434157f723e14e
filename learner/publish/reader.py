"""The tensors of a published version, whatever its form, as raw bits, and checks of its files. numpy, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from learner.publish.catalog import CatalogError, read_manifest
from leeway.v1 import manifest_pb2
from runtime.digest import DigestError, algorithm_of, hasher, text
from runtime.version_format.adapter import ADAPTER_CONFIG, AdapterError
from runtime.version_format.base_digest import weights_digest
from runtime.version_format.delta_codec import DeltaError, TensorChange, apply_change, changes_in
from runtime.version_format.file_check import ExpectedFile, FileFault, faults_of
from runtime.version_format.merged_weights import MergedWeights
from runtime.version_format.names import version_name
from runtime.version_format.safetensors_header import HeaderError, SafetensorsHeader, StoredTensor, read_header
from runtime.version_format.tensor_bits import read_bits


class VersionReader:
    """Reads one version; the headers at once, a tensor whenever it is asked for.

    Args:
        root: directory of the versions.
        version: the version.
        model: directory of the model that the run began with, which an adapter changes; None: as the adapter names it.

    Attributes:
        manifest: the version's own manifest.
        chain: numbers of the versions it is built from: a full version, then deltas, this version last; of an adapter, which
            is built on the model that the run began with, this version alone.
        base: directory of that model; None for other versions.

    Raises:
        CatalogError: the version, or one that it is built on, cannot be read.
    """

    def __init__(self, root: Path, version: int, model: Path | None = None) -> None:
        self.manifest = read_manifest(root, version)
        manifests = [self.manifest]
        while manifests[-1].HasField("base_version"):
            if manifests[-1].base_version >= manifests[-1].version:
                raise CatalogError(
                    f"version {manifests[-1].version}: a delta of version {manifests[-1].base_version}, a later one"
                )
            manifests.append(read_manifest(root, manifests[-1].base_version))
        full, *deltas = manifests[::-1]
        self.chain = [manifest.version for manifest in manifests[::-1]]
        self.base: Path | None = None
        self._merged: MergedWeights | None = None
        if full.HasField("adapter"):
            self.base = model or base_model(root / version_name(full.version))
            self._merged = _merged(root, full, self.base)
        self._headers: dict[str, SafetensorsHeader] = (
            self._merged.files if self._merged else {path.name: header for path, header in _headers(root, full)}
        )
        self._full: dict[str, StoredTensor] = {}
        for header in self._headers.values():
            self._full |= header.tensors
        self._deltas = [_changes(root, delta) for delta in deltas]

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._full)

    def files(self) -> dict[str, SafetensorsHeader]:
        """Headers of the files that hold the whole version, by name: a delta's result has its full version's files."""
        return dict(self._headers)

    def bits(self, name: str) -> np.ndarray:
        """A tensor as a new flat array of unsigned integers as wide as its dtype. Raises CatalogError, OSError."""
        stored = self._full[name]
        try:
            if self._merged is not None:
                return self._merged.bits(name)
            values = read_bits(stored)
            for changes in self._deltas:
                if name in changes:
                    apply_change(name, changes[name], stored, values)
        except (HeaderError, DeltaError) as error:
            raise CatalogError(f"version {self.manifest.version}: {error}") from error
        return values

    def floats(self, name: str) -> np.ndarray:
        """A tensor as a flat float32 array. Raises CatalogError, OSError."""
        bits = self.bits(name)
        if self._full[name].dtype == "BF16":
            return (bits.astype(np.uint32) << 16).view(np.float32)
        return bits.view(np.float16 if self._full[name].dtype == "F16" else np.float32).astype(np.float32)

    def wrong_results(self) -> Iterator[str]:
        """Descriptions of the files that applying a delta yields and that are not what its manifest says."""
        for result in self.manifest.results:
            if result.name not in self._headers:
                continue
            try:
                algorithm = algorithm_of(result.digest)
            except DigestError as error:
                yield f"{result.name}: {error}"
                continue
            header = self._headers[result.name]
            found = hasher(algorithm)
            found.update(memoryview(header.raw))
            for name, _ in sorted(header.tensors.items(), key=lambda item: item[1].start):
                found.update(self.bits(name).view(np.uint8).data)
            if text(found.digest(), algorithm) != result.digest:
                yield f"{result.name}: applying the delta does not give the digest in its manifest"


def wrong_files(root: Path, manifest: manifest_pb2.Manifest) -> list[FileFault]:
    """Files of a version's directory that are not what its manifest says. Reads every byte, several files at a time."""
    expected = [ExpectedFile(file.name, file.size, file.digest) for file in manifest.files]
    return faults_of(root / version_name(manifest.version), expected)


def base_model(directory: Path) -> Path:
    """Directory of the model that an adapter version changes, as its settings name it. Raises CatalogError."""
    path = directory / ADAPTER_CONFIG
    try:
        return Path(json.loads(path.read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{path}: does not name the adapter's base ({error!r})") from error


def wrong_base(reader: VersionReader) -> str | None:
    """Why the base of an adapter version is not the one that it was trained on; None if it is, or is not needed.

    Reads every byte of the base.

    Raises:
        OSError: the disk gave an error, so that nothing is known of the base: it may pass.
    """
    if reader.base is None:
        return None
    try:
        found = weights_digest(reader.base)
    except (FileNotFoundError, NotADirectoryError, HeaderError) as error:
        return f"its base {reader.base} cannot be read ({error}): bring the run's model back"
    wanted = reader.manifest.adapter.base
    if found != wanted:
        return f"its base {reader.base} has the weights {found}, expected {wanted}: bring the run's model back"
    return None


def _merged(root: Path, manifest: manifest_pb2.Manifest, base: Path) -> MergedWeights:
    """An adapter version on its base. Raises CatalogError."""
    adapter = manifest.adapter
    try:
        directory = root / version_name(manifest.version)
        return MergedWeights(base, directory, adapter.rank, adapter.alpha, manifest.dtype)
    except (OSError, AdapterError, HeaderError) as error:
        raise CatalogError(f"version {manifest.version}, an adapter of {base}: {error}") from error


def _headers(root: Path, manifest: manifest_pb2.Manifest) -> Iterator[tuple[Path, SafetensorsHeader]]:
    """Paths and headers of a version's safetensors files. Raises CatalogError."""
    directory = root / version_name(manifest.version)
    for file in manifest.files:
        if file.name.endswith(".safetensors"):
            path = directory / file.name
            try:
                yield path, read_header(path)
            except (OSError, HeaderError) as error:
                raise CatalogError(f"{path}: cannot be read ({error})") from error


def _changes(root: Path, delta: manifest_pb2.Manifest) -> dict[str, TensorChange]:
    """Changes that a delta version stores, by tensor. Raises CatalogError."""
    found: dict[str, TensorChange] = {}
    for path, header in _headers(root, delta):
        try:
            found |= changes_in(header.tensors)
        except DeltaError as error:
            raise CatalogError(f"{path}: {error}") from error
    return found

"""Merging an adapter version into the model that it changes, in a directory of this machine: a full version of the same bits.

An adapter's manifest has the digests of what is published, not of what it yields, so that the digests of the result are
written beside it when it is made.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from google.protobuf import json_format

from leeway.v1 import manifest_pb2
from rollout.versions.manifest import VersionError, disk_errors_pass, verify_files
from rollout.versions.node_cache import NodeCache
from runtime.digest import hasher, text
from runtime.version_format.adapter import AdapterError
from runtime.version_format.merged_weights import MergedWeights
from runtime.version_format.names import MANIFEST
from runtime.version_format.safetensors_header import HeaderError

_RESULTS = "merged.json"  # the files of the full version: a manifest with nothing else
_FILES_AT_ONCE = 4  # each needs a few times the memory of its largest tensor


class Merger:
    """Merges adapter versions of one model in ``cache``, once for all workers that share it.

    Args:
        cache: where the full versions are.
        model: directory of the base.
    """

    def __init__(self, cache: NodeCache, model: Path) -> None:
        self._cache = cache
        self._model = model

    def merge(self, directory: Path, manifest: manifest_pb2.Manifest) -> Path:
        """Returns the directory of the full version.

        Args:
            directory: directory of the adapter version, its files and its base verified.
            manifest: manifest of the adapter version.

        Raises:
            FetchError: a file could not be read or written now, such as on a full disk.
            VersionError: the adapter does not fit the base.
        """
        with self._cache.locked():
            target = self._cache.path(manifest.version)
            if not _is_intact(target, directory):
                self._cache.evict()  # what nobody reads any more makes room
                self._build(directory, manifest, target)
            self._cache.hold(manifest.version)
            self._cache.evict()
        return target

    def _build(self, directory: Path, manifest: manifest_pb2.Manifest, target: Path) -> None:
        temporary = self._cache.root / ".merging"
        shutil.rmtree(temporary, ignore_errors=True)
        field = f"adapter version {manifest.version}"
        try:
            with disk_errors_pass(field):
                temporary.mkdir()
                adapter = manifest.adapter
                weights = MergedWeights(self._model, directory, adapter.rank, adapter.alpha, manifest.dtype)
                self._copy_companions(temporary)
                with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                    files = list(pool.map(partial(_write, weights, temporary), weights.files))
                results = json_format.MessageToJson(manifest_pb2.Manifest(files=files))
                (temporary / _RESULTS).write_text(results)
                shutil.copyfile(directory / MANIFEST, temporary / MANIFEST)
                shutil.rmtree(target, ignore_errors=True)
                temporary.rename(target)
        except (AdapterError, HeaderError) as error:
            raise VersionError(field, str(error)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _copy_companions(self, target: Path) -> None:
        """Copies configuration, tokenizer and index: the files of the base are those of the full version, by name."""
        for pattern in ("*.json", "*.jinja", "*.txt", "*.model"):
            for path in self._model.glob(pattern):
                if path.name != MANIFEST:
                    shutil.copyfile(path, target / path.name)


def _write(weights: MergedWeights, directory: Path, name: str) -> manifest_pb2.ManifestFile:
    """Writes one file of the full version; returns its size and digest. Raises OSError."""
    header, found, size = weights.files[name], hasher(), 0
    with (directory / name).open("wb") as file:
        data = (weights.bits(tensor).view(np.uint8).data for tensor in header.tensors)
        for piece in chain([memoryview(header.raw)], data):
            file.write(piece)
            found.update(piece)
            size += len(piece)
    return manifest_pb2.ManifestFile(name=name, size=size, digest=text(found.digest()))


def _is_intact(target: Path, directory: Path) -> bool:
    """Whether the version was merged before and is still what it was: an engine may be reading it."""
    try:
        if (target / MANIFEST).read_bytes() != (directory / MANIFEST).read_bytes():
            return False
        results = json_format.Parse((target / _RESULTS).read_bytes(), manifest_pb2.Manifest())
        verify_files(target, results.files)
    except (OSError, VersionError, json_format.ParseError):
        return False
    return True

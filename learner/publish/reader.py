"""The tensors of a published version, full or delta, as raw bits. numpy only; the format is in manifest.proto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from learner.publish.catalog import CatalogError, read_manifest, version_name
from leeway.v1 import manifest_pb2
from runtime.digest import DigestError, algorithm_of, hasher, of_file, text

_GAPS, _VALUES = "#gaps", "#values"
_READERS = 4  # threads: hashing releases the interpreter lock
_TYPES = {"U8": np.uint8, "BF16": np.uint16, "F16": np.uint16, "U16": np.uint16, "F32": np.uint32, "U32": np.uint32}


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: str
    start: int
    stop: int

    def read(self) -> np.ndarray:
        """Flat unsigned integers."""
        with self.file.open("rb") as content:
            content.seek(self.start)
            return np.frombuffer(content.read(self.stop - self.start), _TYPES[self.dtype])


class VersionReader:
    """One version. Reads headers at once and tensors when asked for.

    Raises:
        CatalogError: it, or a version it is a delta of, cannot be read.
    """

    def __init__(self, root: Path, version: int) -> None:
        self.manifest = read_manifest(root, version)
        chain = [self.manifest]
        while chain[-1].HasField("base_version"):
            if chain[-1].base_version >= chain[-1].version:
                raise CatalogError(
                    f"version {chain[-1].version}: a delta of version {chain[-1].base_version}, a later one"
                )
            chain.append(read_manifest(root, chain[-1].base_version))
        full, *deltas = chain[::-1]
        self.chain = [manifest.version for manifest in chain[::-1]]
        self._layouts: dict[str, bytes] = {}
        self._full: dict[str, _Place] = {}
        self._deltas: list[dict[str, _Place]] = []
        for file in _shards(root, full):
            self._layouts[file.name], places = _places(file)
            self._full |= places
        for delta in deltas:
            found: dict[str, _Place] = {}
            for file in _shards(root, delta):
                found |= _places(file)[1]
            self._deltas.append(found)

    def names(self) -> list[str]:
        """Of all tensors, in order."""
        return sorted(self._full)

    def bits(self, name: str) -> np.ndarray:
        """A tensor, flat, as unsigned integers."""
        values = self._full[name].read()
        for delta in self._deltas:
            if name in delta:
                values = delta[name].read()
            elif name + _VALUES in delta:
                values = values.copy()
                where = np.cumsum(delta[name + _GAPS].read(), dtype=np.int64)
                values[where] = delta[name + _VALUES].read()
        return values

    def floats(self, name: str) -> np.ndarray:
        """A tensor, flat, in float32."""
        bits = self.bits(name)
        if self._full[name].dtype == "BF16":
            return (bits.astype(np.uint32) << 16).view(np.float32)
        return bits.view(np.float16 if self._full[name].dtype == "F16" else np.float32).astype(np.float32)

    def wrong_results(self) -> Iterator[str]:
        """A delta's files of the full version that are not what its manifest says."""
        for result in self.manifest.results:
            if result.name not in self._layouts:
                continue
            try:
                algorithm = algorithm_of(digest_of(result))
            except DigestError as error:
                yield f"{result.name}: {error}"
                continue
            found = hasher(algorithm)
            found.update(memoryview(self._layouts[result.name]))
            mine = [item for item in self._full.items() if item[1].file.name == result.name]
            for name, _ in sorted(mine, key=lambda item: item[1].start):
                found.update(self.bits(name).view(np.uint8).data)
            if text(found.digest(), algorithm) != digest_of(result):
                yield f"{result.name}: applying the delta does not give the digest in its manifest"


def wrong_files(root: Path, manifest: manifest_pb2.Manifest) -> list[str]:
    """Files of a version's directory that are not what its manifest says. Reads every byte, several files at a time."""
    check = partial(_wrong, root / version_name(manifest.version))
    with ThreadPoolExecutor(_READERS) as pool:
        return [reason for reason in pool.map(check, manifest.files) if reason]


def digest_of(file: manifest_pb2.ManifestFile) -> str:
    """What a manifest of any schema says of a file."""
    return file.digest or f"sha256:{file.sha256}"


def _wrong(directory: Path, file: manifest_pb2.ManifestFile) -> str:
    expected = digest_of(file)
    try:
        size, digest = of_file(directory / file.name, algorithm_of(expected))
    except OSError as error:
        return f"{file.name}: {error.strerror}"
    except DigestError as error:
        return f"{file.name}: {error}"
    if (size, digest) != (file.size, expected):
        return f"{file.name}: {size} bytes, {digest[:19]}..., expected {file.size} and {expected[:19]}..."
    return ""


def _shards(root: Path, manifest: manifest_pb2.Manifest) -> list[Path]:
    directory = root / version_name(manifest.version)
    return [directory / file.name for file in manifest.files if file.name.endswith(".safetensors")]


def _places(path: Path) -> tuple[bytes, dict[str, _Place]]:
    try:
        with path.open("rb") as content:
            length = content.read(8)
            header = content.read(int.from_bytes(length, "little"))
        start = 8 + len(header)
        items = {name: item for name, item in json.loads(header).items() if name != "__metadata__"}
        return length + header, {
            name: _Place(path, item["dtype"], start + item["data_offsets"][0], start + item["data_offsets"][1])
            for name, item in items.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{path}: not safetensors ({error})") from error

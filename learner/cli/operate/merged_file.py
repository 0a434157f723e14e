"""One safetensors file of a version with its deltas applied, written as it was published or in another dtype. No torch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from learner.publish.catalog import CatalogError
from learner.publish.reader import VersionReader
from learner.storage.durable_file import DurableFile
from runtime.digest import DigestError, algorithm_of, hasher, text
from runtime.version_format.safetensors_header import SafetensorsHeader, StoredTensor

DTYPES = {"float32": "F32", "bfloat16": "BF16"}  # name in settings and manifests -> name in safetensors files
_WIDTH = {"F32": 4, "BF16": 2}
_CONVERTED = set(_WIDTH)  # tensors of any other dtype stay as they are: they are no weights of the model
_PIECE = 1 << 20  # elements converted at once, so that a large embedding needs no second copy
_ALIGNMENT = 8  # bytes; the data begin at a multiple of it


def merged_size(header: SafetensorsHeader, dtype: str) -> int:
    """Bytes of the file that ``write_merged`` writes, but for the difference in the length of its header."""
    return len(header.raw) + sum(_bytes_of(tensor, dtype) for tensor in header.tensors.values())


def write_merged(reader: VersionReader, name: str, target: Path, dtype: str, digest: str) -> None:
    """Writes one file of a version; when it returns, the file is on disk.

    Args:
        reader: the version.
        name: name of the file.
        target: where to write it.
        dtype: "float32" or "bfloat16": the dtype of its weights.
        digest: the file's digest as the version's manifest has it. It is that of the published dtype, and what is converted
            is checked against it before the conversion.

    Raises:
        CatalogError: the deltas cannot be applied, or do not give the digest.
        OSError: a file cannot be read or written.
    """
    header = reader.files()[name]
    tensors = sorted(header.tensors.items(), key=lambda item: item[1].start)
    raw = header.raw if not _changes(header, dtype) else _header(dict(tensors), dtype)
    try:
        algorithm = algorithm_of(digest)
    except DigestError as error:
        raise CatalogError(f"version {reader.manifest.version}: {name}: {error}") from error
    found = hasher(algorithm)
    found.update(memoryview(header.raw))
    with DurableFile(target, len(raw) + sum(_bytes_of(tensor, dtype) for _, tensor in tensors)) as file:
        file.write(memoryview(raw))
        for tensor_name, stored in tensors:
            bits = reader.bits(tensor_name)
            for start in range(0, len(bits), _PIECE):
                piece = bits[start : start + _PIECE]
                found.update(piece.view(np.uint8).data)
                file.write(converted(piece, stored.dtype, dtype).view(np.uint8).data)
        file.sync()
    if text(found.digest(), algorithm) != digest:
        raise CatalogError(
            f"version {reader.manifest.version}: {name}: its deltas do not give the digest in its manifest; leeway policy "
            "verify says which version is damaged"
        )


def converted(bits: np.ndarray, stored: str, dtype: str) -> np.ndarray:
    """Converts elements to "float32" (exactly) or to "bfloat16" (to the nearest, ties to even; NaN stays NaN).

    Args:
        bits: elements as unsigned integers as wide as their dtype, flat.
        stored: their dtype as safetensors spells it; others than F32 and BF16 are returned as they are.
        dtype: the dtype to convert to.
    """
    if stored not in _CONVERTED or stored == DTYPES[dtype]:
        return bits
    if dtype == "float32":
        return bits.astype(np.uint32) << 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    upper = bits >> 16
    rounded = (bits + (upper & 1) + np.uint32(0x7FFF)) >> 16  # only a NaN's bits can be so large that this wraps round
    return np.where(nan, upper | 0x40, rounded).astype(np.uint16)


def _changes(header: SafetensorsHeader, dtype: str) -> bool:
    return any(one.dtype in _CONVERTED and one.dtype != DTYPES[dtype] for one in header.tensors.values())


def _header(tensors: dict[str, StoredTensor], dtype: str) -> bytes:
    """The bytes of a file before its data: 8 of length, then JSON with the tensors in the given order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        stop = start + _bytes_of(tensor, dtype)
        kind = DTYPES[dtype] if tensor.dtype in _CONVERTED else tensor.dtype
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    content = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    return len(content).to_bytes(8, "little") + content


def _bytes_of(tensor: StoredTensor, dtype: str) -> int:
    if tensor.dtype in _CONVERTED:
        return math.prod(tensor.shape) * _WIDTH[DTYPES[dtype]]
    return tensor.stop - tensor.start

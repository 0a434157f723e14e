"""One safetensors file of a full version, its deltas or its adapter applied, as published or in another dtype. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from learner.publish.catalog import CatalogError
from learner.publish.reader import VersionReader
from learner.storage.durable_file import DurableFile
from runtime.digest import ALGORITHM, DigestError, algorithm_of, hasher, text
from runtime.version_format.conversion import converted, converted_header, converted_size, converts
from runtime.version_format.safetensors_header import SafetensorsHeader
from runtime.version_format.wide_tensors import dtype_of

_PIECE = 1 << 20  # elements converted at once, so that a large embedding needs no second copy


def merged_size(header: SafetensorsHeader, dtype: str) -> int:
    """Bytes of the file that ``write_merged`` writes, but for the difference in the length of its header."""
    return len(header.raw) + _data_size(header, dtype)


def write_merged(reader: VersionReader, name: str, target: Path, dtype: str, digest: str | None) -> None:
    """Writes one file of a version; when it returns, the file is on disk.

    Args:
        reader: the version.
        name: name of the file.
        target: where to write it.
        dtype: "float32" or "bfloat16": the dtype of its weights.
        digest: the file's digest as the version's manifest has it. It is that of the published dtype, and what is converted
            is checked against it before the conversion. None: it has none, as an adapter version has only those of its parts.

    Raises:
        CatalogError: the deltas cannot be applied, or do not give the digest.
        OSError: a file cannot be read or written.
    """
    header = reader.files()[name]
    tensors = sorted(header.tensors.items(), key=lambda item: item[1].start)
    raw = converted_header(header, dtype).raw if converts(header, dtype) else header.raw
    try:
        algorithm = ALGORITHM if digest is None else algorithm_of(digest)
    except DigestError as error:
        raise CatalogError(f"version {reader.manifest.version}: {name}: {error}") from error
    found = hasher(algorithm)
    found.update(memoryview(header.raw))
    with DurableFile(target, len(raw) + _data_size(header, dtype)) as file:
        file.write(memoryview(raw))
        for tensor_name, stored in tensors:
            bits, own = reader.bits(tensor_name), dtype_of(tensor_name, dtype)
            for start in range(0, len(bits), _PIECE):
                piece = bits[start : start + _PIECE]
                found.update(piece.view(np.uint8).data)
                file.write(converted(piece, stored.dtype, own).view(np.uint8).data)
        file.sync()
    if digest is not None and text(found.digest(), algorithm) != digest:
        raise CatalogError(
            f"version {reader.manifest.version}: {name}: its deltas do not give the digest in its manifest; leeway policy "
            "verify says which version is damaged"
        )


def _data_size(header: SafetensorsHeader, dtype: str) -> int:
    return sum(converted_size(tensor, dtype_of(name, dtype)) for name, tensor in header.tensors.items())

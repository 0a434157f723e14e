"""Writing a safetensors file, byte for byte as the safetensors library does, hashed and made durable while it is written.

The library writes a file; we need its digest as well, and reading it back to hash it costs a third of writing it. So a
second thread hashes what the first one writes: both release the interpreter lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.storage.digests import FileDigest
from learner.storage.durable_file import DurableFile
from runtime.digest import hasher, text

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_DTYPES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8", torch.uint16: "U16", torch.uint32: "U32",
}  # fmt: skip
_ALIGNMENT = 8  # bytes; the data begin at a multiple of it
_PIECE = 1 << 22  # bytes written or hashed at once


def write(path: Path, tensors: Mapping[str, Tensor]) -> FileDigest:
    """Writes contiguous tensors in host memory; when it returns, the file is on disk (fsync). Raises OSError."""
    header = encode_header(tensors)
    with ThreadPoolExecutor(1) as thread:
        hashed = thread.submit(digest, tensors)
        with DurableFile(path, len(header) + sum(tensor.nbytes for tensor in tensors.values())) as file:
            for piece in _pieces(header, tensors):
                file.write(piece)
            file.sync()
        return hashed.result()


def digest(tensors: Mapping[str, Tensor]) -> FileDigest:
    """Size and digest of the file that ``write`` would make of these tensors, without writing it."""
    found, size = hasher(), 0
    for piece in _pieces(encode_header(tensors), tensors):
        found.update(piece)
        size += len(piece)
    return FileDigest(size, text(found.digest()))


def encode_header(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of the file before its data: 8 of length, then JSON with the tensors in the order they are stored in."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in _order(tensors):
        tensor = tensors[name]
        stop = start + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def bits(tensor: Tensor) -> Tensor:
    """Elements of a contiguous tensor as integers of the same width: a flat view, no copy."""
    return tensor.flatten().view(_INTEGERS[tensor.element_size()])


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names in the order in which the safetensors library stores them: widest elements first, then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _pieces(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    yield memoryview(header)
    for name in _order(tensors):
        if not tensors[name].nbytes:
            continue
        data: Any = bits(tensors[name]).numpy()  # any array is a buffer
        content = memoryview(data).cast("B")
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]

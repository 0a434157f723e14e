"""A safetensors file, byte for byte as the safetensors library writes it, hashed and made durable while it is written.

The library writes a file; we need its digest as well, and reading it back to hash it costs a third of writing it. So a
second thread hashes what the first one writes: both let go of the interpreter lock.
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

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NAMES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8", torch.uint16: "U16", torch.uint32: "U32",
}  # fmt: skip
_ALIGNED = 8  # bytes: where the data begin is a multiple of it
_PIECE = 1 << 22  # bytes written or hashed at once


def write(path: Path, tensors: Mapping[str, Tensor]) -> FileDigest:
    """Writes contiguous tensors in host memory; when it returns they are on disk (fsync). Raises OSError."""
    head = layout(tensors)
    with ThreadPoolExecutor(1) as thread:
        hashed = thread.submit(digest, tensors)
        with DurableFile(path, len(head) + sum(tensor.nbytes for tensor in tensors.values())) as file:
            for piece in _pieces(head, tensors):
                file.write(piece)
            file.sync()
        return hashed.result()


def digest(tensors: Mapping[str, Tensor]) -> FileDigest:
    """What the file with these tensors would be."""
    found, size = hasher(), 0
    for piece in _pieces(layout(tensors), tensors):
        found.update(piece)
        size += len(piece)
    return FileDigest(size, text(found.digest()))


def layout(tensors: Mapping[str, Tensor]) -> bytes:
    """The file up to its data: 8 bytes of length, then JSON, widest elements first and then by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in _order(tensors):
        tensor = tensors[name]
        stop = start + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def names(path: Path) -> list[str]:
    """Of the tensors in a file. Raises OSError."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def bits(tensor: Tensor) -> Tensor:
    """A contiguous tensor's elements as integers of their width, flat, without a copy."""
    return tensor.flatten().view(_BITS[tensor.element_size()])


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _pieces(head: bytes, tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    yield memoryview(head)
    for name in _order(tensors):
        if not tensors[name].nbytes:
            continue
        data: Any = bits(tensors[name]).numpy()  # any array is a buffer
        content = memoryview(data).cast("B")
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]

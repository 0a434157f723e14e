"""The digest of a model's weights, which is the same however they are divided into files. Standard library and BLAKE3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.digest import hasher, text
from runtime.version_format.safetensors_header import StoredTensor, read_header

_THREADS = 4  # hashing and reading release the interpreter lock
_BLOCK = 1 << 22  # bytes read at once


def weights_digest(model: Path) -> str:
    """Reads every tensor of a model directory; returns the digest that an adapter's manifest names its base by.

    It is the BLAKE3 of one line for each tensor, sorted by name: name, dtype, sizes with commas between, and the digest of
    the elements' bytes, with spaces between and a line feed at the end.

    Raises:
        HeaderError: a file is not safetensors, or incomplete.
        OSError: the directory or a file cannot be read, or it has no safetensors files.
    """
    stored: dict[str, StoredTensor] = {}
    for path in sorted(model.glob("*.safetensors")):
        stored |= read_header(path).tensors
    if not stored:
        raise FileNotFoundError(f"{model} holds no *.safetensors")
    names = sorted(stored)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(_elements, [stored[name] for name in names])
        lines = [
            f"{name} {stored[name].dtype} {','.join(map(str, stored[name].shape))} {digest}\n"
            for name, digest in zip(names, digests, strict=True)
        ]
    found = hasher()
    found.update(memoryview("".join(lines).encode()))
    return text(found.digest())


def _elements(tensor: StoredTensor) -> str:
    found, left = hasher(), tensor.stop - tensor.start
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise OSError(f"{tensor.file}: ends {left} bytes before its header says")
            found.update(memoryview(block))
            left -= len(block)
    return text(found.digest())

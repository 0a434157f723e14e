"""A rank's part of a version: whole, or what changed since the version before it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from learner.delta import changes, read_layout, result_digest

Shard = Sequence[tuple[str, Tensor]]
DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True)
class Seal:
    """What a file is: size in bytes, SHA-256."""

    size: int
    sha256: bytes

    def row(self) -> list[int]:
        """As integers, for a collective."""
        return [self.size, *self.sha256]

    @classmethod
    def of_row(cls, row: list[int]) -> Seal | None:
        """The inverse of ``row``; None for zeros."""
        return cls(row[0], bytes(row[1:])) if row[0] else None


NONE = Seal(0, bytes(DIGEST))


@dataclass(frozen=True)
class _Held:
    """A version as this rank wrote it: the base of the next delta."""

    version: int
    tensors: dict[str, Tensor]
    layout: bytes  # of its full file


class ShardWriter:
    """Writes one rank's shards.

    Args:
        rank: names the files.
        dtype: "float32" or "bfloat16".
        deltas: whether to hold what was written, a copy of the rank's weights in host memory, so that the next may be a
            delta.
    """

    def __init__(self, rank: int, dtype: str, deltas: bool) -> None:
        self._rank = rank
        self._dtype = getattr(torch, dtype)
        self._deltas = deltas
        self._held: _Held | None = None

    def write(self, directory: Path, version: int, shard: Shard, base: int | None) -> tuple[Seal, Seal]:
        """Writes the rank's file, if there is anything to write.

        Args:
            directory: made if need be, without parents: a replaced learner's room must not come back.
            base: write what changed since that version; None: everything.

        Returns:
            The file written, and the full file that it is or yields; NONE for a file that is not.

        Raises:
            OSError: it cannot be written, or the rank does not hold that base.
        """
        directory.mkdir(exist_ok=True)
        if not shard:
            return NONE, NONE
        tensors = {name: tensor.to(self._dtype).contiguous() for name, tensor in shard}
        if base is None:
            path = directory / model_file(self._rank)
            _save(tensors, path)
            written = result = seal(path)
            layout = read_layout(path)
        else:
            held = self._held
            if held is None or held.version != base:
                raise OSError(f"rank {self._rank} does not hold version {base}: a full version is needed")
            found, layout = changes(tensors, held.tensors), held.layout
            written = NONE
            if found:
                path = directory / delta_file(self._rank)
                _save(found, path)
                written = seal(path)
            result = Seal(*result_digest(layout, tensors))
        if self._deltas:
            self._held = _Held(version, tensors, layout)
        return written, result


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"{path}: {error}") from error


def model_file(rank: int) -> str:
    """A rank's file in a full version."""
    return f"model-{rank:05d}.safetensors"


def delta_file(rank: int) -> str:
    """A rank's file in a delta."""
    return f"delta-{rank:05d}.safetensors"


def seal(path: Path) -> Seal:
    """Makes a file durable and says what it is."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        os.fsync(file.fileno())
        return Seal(file.tell(), digest)

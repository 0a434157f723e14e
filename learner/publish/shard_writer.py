"""A rank's part of a version: whole, or what changed since the version before it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from learner.publish.delta import changes
from learner.publish.safetensors_file import digest, write
from learner.storage.digests import FileDigest

Shard = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class _Held:
    """A version as this rank wrote it: the base of the next delta."""

    version: int
    tensors: dict[str, Tensor]


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

    def write(
        self, directory: Path, version: int, shard: Shard, base: int | None
    ) -> tuple[FileDigest | None, FileDigest | None]:
        """Writes the rank's file, if there is anything to write.

        Args:
            directory: made if need be, without parents: a replaced learner's room must not come back.
            base: write what changed since that version; None: everything.

        Returns:
            The file written, and the full file that it is or yields; None for a file that is not.

        Raises:
            OSError: it cannot be written, or the rank does not hold that base.
        """
        directory.mkdir(exist_ok=True)
        if not shard:
            return None, None
        tensors = {name: tensor.to(self._dtype).contiguous() for name, tensor in shard}
        if base is None:
            written = result = write(directory / model_file(self._rank), tensors)
        else:
            held = self._held
            if held is None or held.version != base:
                raise OSError(f"rank {self._rank} does not hold version {base}: a full version is needed")
            with ThreadPoolExecutor(1) as thread:
                full = thread.submit(digest, tensors)
                found = changes(tensors, held.tensors)
                written = write(directory / delta_file(self._rank), found) if found else None
                result = full.result()
        if self._deltas:
            self._held = _Held(version, tensors)
        return written, result


def model_file(rank: int) -> str:
    """A rank's file in a full version."""
    return f"model-{rank:05d}.safetensors"


def delta_file(rank: int) -> str:
    """A rank's file in a delta."""
    return f"delta-{rank:05d}.safetensors"

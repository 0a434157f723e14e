"""The files that one rank writes of a version: all its tensors, or what changed in them since the version before it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from learner.publish.delta_writer import changes
from learner.publish.safetensors_file import digest, write
from learner.publish.shard_source import ShardSource
from learner.storage.digests import FileDigest
from runtime.version_format.adapter import ADAPTER_WEIGHTS
from runtime.version_format.wide_tensors import dtype_of


@dataclass(frozen=True)
class _WrittenShard:
    """The tensors of the version that this rank wrote last: the base of the next delta. They are a part of ``source``."""

    version: int
    tensors: dict[str, Tensor]
    source: ShardSource


class ShardWriter:
    """Writes one rank's shards.

    Args:
        rank: this process's rank; it is part of the files' names.
        dtype: "float32" or "bfloat16", the dtype of what is written, but of tensors that stay float32.
        deltas: whether to hold what was written, a copy of the rank's weights in host memory, until the next version, so
            that this may be a delta.
        full: name of the rank's file in a version that is no delta.
    """

    def __init__(self, rank: int, dtype: str, deltas: bool, full: str) -> None:
        self._rank = rank
        self._full = full
        self._dtype = dtype
        self._deltas = deltas
        self._last: _WrittenShard | None = None

    def write(
        self, directory: Path, version: int, source: ShardSource, base: int | None
    ) -> tuple[FileDigest | None, FileDigest | None]:
        """Writes the rank's file, if there is anything to write, and releases what is not needed any more. Collective.

        Args:
            directory: made if it is missing, without parents: a replaced learner must not make its staging directory again.
            version: the version's number.
            source: what this rank writes.
            base: write only what changed since that version; None writes everything.

        Returns:
            Digests of the file written, and of the full file that it is or yields. The first is None for a delta in which
            nothing changed, both are None for an empty shard.

        Raises:
            OSError: the file cannot be written, or this rank did not write ``base`` last.
        """
        last, self._last = self._last, None
        try:
            # Even a rank that cannot write takes part: the others may need its slices.
            tensors = {name: self._published(name, tensor) for name, tensor in source.shard()}
            digests = self._write(directory, tensors, base, last)
            if self._deltas:
                self._last = _WrittenShard(version, tensors, source)
        finally:
            if last is not None:
                last.source.release()
            if self._last is None:
                source.release()
        return digests

    def _published(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.to(getattr(torch, dtype_of(name, self._dtype))).contiguous()

    def _write(
        self, directory: Path, tensors: dict[str, Tensor], base: int | None, last: _WrittenShard | None
    ) -> tuple[FileDigest | None, FileDigest | None]:
        directory.mkdir(exist_ok=True)
        if not tensors:
            return None, None
        if base is None:
            result = write(directory / self._full, tensors)
            return result, result
        if last is None or last.version != base:
            raise OSError(f"rank {self._rank} has no copy of version {base}: a full version is needed")
        with ThreadPoolExecutor(1) as thread:
            full = thread.submit(digest, tensors)
            found = changes(tensors, last.tensors)
            written = write(directory / delta_file(self._rank), found) if found else None
            return written, full.result()


def model_file(rank: int) -> str:
    """Name of a rank's file in a full version."""
    return f"model-{rank:05d}.safetensors"


def delta_file(rank: int) -> str:
    """Name of a rank's file in a delta version."""
    return f"delta-{rank:05d}.safetensors"


def adapter_file(rank: int) -> str:
    """Name of a rank's file in an adapter version; rank 0 alone writes one."""
    return f"{rank}-{ADAPTER_WEIGHTS}" if rank else ADAPTER_WEIGHTS

"""A save in the background: copies of a rank's shards are written to disk while training goes on.

A save has three stages. Copying to host memory does not touch the disk and is not collective, but for the first save of a
run, which agrees on who writes what. Writing runs in a thread of each rank and is not collective. Finalizing is collective:
it gathers what every rank wrote, then writes the metadata without which a directory is no checkpoint. A rank that cannot
write reports it while finalizing, so that all ranks raise and none waits for another.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from torch import Tensor

from learner.megatron.host_buffer import HostBuffer
from learner.megatron.parallel import Ranks
from learner.megatron.patches.checkpoint_writer import CheckpointWriter, Content, Share
from learner.storage.digests import FileDigest, file_digests


class SaveError(OSError):
    """A rank could not write its files, so the directory is no checkpoint. Raised on every rank."""


@dataclass(frozen=True)
class RankState:
    """What a rank saves.

    Attributes:
        contents: values of its share's items.
        common: what is equal on all ranks; rank 0 writes it.
        private: bytes of this rank alone, written to a file of their own.
    """

    contents: list[Content]
    common: dict[str, Any]
    private: bytes


class AsyncSave:
    """One save. ``finalize`` is collective.

    Args:
        directory: where to write; it exists and is empty when ``start`` is called.
        share: what this rank writes.
        state: the values; its tensors are copied, and may change after the copy (see ``protect``).
        buffer: where they are copied to; no other save may use it before this one has been finalized.
        ranks: this process's indices and groups.

    Attributes:
        digests: all ranks' files by name, on rank 0, after ``finalize``; empty elsewhere.
    """

    def __init__(self, directory: Path, share: Share, state: RankState, buffer: HostBuffer, ranks: Ranks) -> None:
        self.directory = directory
        self._ranks = ranks
        self._share, self._state = share, state
        self._writer = CheckpointWriter(directory)
        self._results: list[Any] = []
        self._copy = buffer.copy([content for content in state.contents if isinstance(content, Tensor)])
        self._failure: Exception | None = None
        self._own_digests: dict[str, FileDigest] = {}
        self.digests: dict[str, FileDigest] = {}
        self._thread = threading.Thread(target=self._write, name=f"save-{directory.name}")

    def protect(self) -> None:
        """Lets what this thread puts on the GPU from now on, such as new weights, wait until the old are copied."""
        self._copy.protect()

    def start(self) -> None:
        """Starts writing in a thread."""
        self._thread.start()

    @property
    def writing(self) -> bool:
        """Whether this rank is still writing."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Waits until this rank has written its files or failed, for ``timeout_s`` seconds at most."""
        self._thread.join(timeout_s)

    def finalize(self) -> None:
        """Makes the directory a complete checkpoint, durable on disk. Collective, after every rank has finished writing.

        Raises:
            SaveError: a rank could not write.
        """
        failure = f"rank {self._ranks.rank}: {self._failure}" if self._failure else ""
        own = (self._results, failure, self._own_digests)
        gathered: list[Any] | None = [None] * self._ranks.world if self._ranks.rank == 0 else None
        dist.gather_object(own, gathered, dst=0, group=self._ranks.control)
        found = self._write_metadata(gathered) if gathered is not None else ""
        failures = self._ranks.broadcast_bytes(found.encode()).decode()
        if failures:
            raise SaveError(f"{self.directory}: not saved: {failures}")

    def _write(self) -> None:
        try:
            self._copy.wait()
            copies = iter(self._copy.tensors)
            contents = [next(copies) if isinstance(one, Tensor) else one for one in self._state.contents]
            self._results = self._writer.write(self._share, contents)
            # Digests are read back while the file is in memory.
            self._own_digests = file_digests(self.directory, [self._share.file] if self._results else [])
            name = private_file(self._ranks.rank)
            (self.directory / name).write_bytes(self._state.private)
            self._own_digests |= file_digests(self.directory, [name])
            if self._ranks.rank == 0:
                torch.save(self._state.common, self.directory / COMMON_STATE_FNAME)
        except (OSError, RuntimeError) as error:  # RuntimeError is what torch.save makes of a full disk
            self._failure = error

    def _write_metadata(self, gathered: list[Any]) -> str:
        """Writes the metadata on rank 0 and syncs the directory; returns what failed on any rank, or an empty string."""
        failures = [failure for _, failure, _ in gathered if failure]
        if failures:
            return "; ".join(failures)
        for _, _, files in gathered:
            self.digests |= files
        metadata = self._share.metadata
        assert metadata is not None  # this is rank 0
        try:
            self._writer.finish(metadata, [results for results, _, _ in gathered])
            save_config(CheckpointingConfig("torch_dist", 1), str(self.directory))
            _sync(self.directory)
        except OSError as error:
            return f"rank 0: {error}"
        return ""


def private_file(rank: int) -> str:
    """Name of the file with the bytes of one rank alone."""
    return f"rank_{rank:05d}.pt"


def _sync(directory: Path) -> None:
    """Calls fsync on every file of the directory, and on the directory itself."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

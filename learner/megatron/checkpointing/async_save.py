"""A save in the background: a snapshot of sharded tensors is written to disk while training goes on.

A save has three stages. Planning and copying to host memory are collective and do not touch the disk. Writing runs in a
thread of each rank and is not collective. Finalizing is collective again: it gathers what every rank wrote, then writes the
metadata without which a directory is no checkpoint. A rank that cannot write reports it while finalizing, so that all ranks
raise and none waits for another.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME

from learner.megatron.parallel import Ranks
from learner.megatron.patches.checkpoint_writer import plan_save
from learner.storage.digests import FileDigest, file_digests


class SaveError(OSError):
    """A rank could not write its files, so the directory is no checkpoint. Raised on every rank."""


class AsyncSave:
    """One save. Constructing it and ``finalize`` are collective.

    Args:
        directory: where to write; it exists and is empty when ``start`` is called.
        state: a megatron sharded state dict; its tensors are copied, so training may go on.
        private: bytes of this rank alone, written to a file of their own.
        ranks: this process's indices and groups.
        check: whether to verify that the ranks' shards cover every tensor once. Costs a gather; once per layout is enough.

    Attributes:
        digests: all ranks' files by name, on rank 0, after ``finalize``; empty elsewhere.
    """

    def __init__(self, directory: Path, state: dict[str, Any], private: bytes, ranks: Ranks, check: bool) -> None:
        self.directory = directory
        self._ranks = ranks
        self._private = private
        sharded, self._common = save_preprocess(state, check)
        self._writer, self._metadata = plan_save(sharded, directory)
        self._failure: Exception | None = None
        self._own_digests: dict[str, FileDigest] = {}
        self.digests: dict[str, FileDigest] = {}
        self._thread = threading.Thread(target=self._write, name=f"save-{directory.name}")

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
        own = (self._writer.results, failure, self._own_digests)
        gathered: list[Any] | None = [None] * self._ranks.world if self._ranks.rank == 0 else None
        dist.gather_object(own, gathered, dst=0, group=self._ranks.control)
        found = self._write_metadata(gathered) if gathered is not None else ""
        failures = self._ranks.broadcast_bytes(found.encode()).decode()
        if failures:
            raise SaveError(f"{self.directory}: not saved: {failures}")

    def _write(self) -> None:
        try:
            # Digests are read back while the file is in memory.
            self._own_digests = file_digests(self.directory, self._writer.write())
            name = private_file(self._ranks.rank)
            (self.directory / name).write_bytes(self._private)
            self._own_digests |= file_digests(self.directory, [name])
            if self._ranks.rank == 0:
                torch.save(self._common, self.directory / COMMON_STATE_FNAME)
        except (OSError, RuntimeError) as error:  # RuntimeError is what torch.save makes of a full disk
            self._failure = error

    def _write_metadata(self, gathered: list[Any]) -> str:
        """Writes the metadata on rank 0 and syncs the directory; returns what failed on any rank, or an empty string."""
        failures = [failure for _, failure, _ in gathered if failure]
        if failures:
            return "; ".join(failures)
        for _, _, files in gathered:
            self.digests |= files
        try:
            self._writer.finish(self._metadata, [results for results, _, _ in gathered])
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

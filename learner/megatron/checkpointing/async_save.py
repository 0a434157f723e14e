"""A snapshot of sharded tensors on its way to disk, in megatron's torch_dist format.

Three parts. Planning and copying to host memory are collective and touch no disk. Writing happens in a thread of each rank
and is not collective. Sealing is collective again: it gathers what every rank wrote and then writes the metadata without
which a directory is no checkpoint. A rank that cannot write says so while sealing, so that all ranks raise and none waits.

Megatron's own asynchronous save forks a process per rank and spawns a manager that imports everything anew: seconds of CPU
time for a small model. Bytes are copied and written without the interpreter lock, so a thread does as well.
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
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.state_dict_saver import save_state_dict_async_plan
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.filesystem import (
    DEFAULT_SUFFIX,
    SerializationFormat,
    _StorageWriterTransforms,
    _write_item,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from learner.megatron.parallel import Ranks
from learner.storage.digests import FileDigest, file_digests


class SaveError(OSError):
    """A rank could not write its part; what has been written is no checkpoint. Raised on every rank."""


class AsyncSave:
    """One save. Methods that are collective say so.

    Args:
        directory: exists and is empty when ``start`` is called.
        state: a megatron sharded state dict; its tensors are copied, so training may go on.
        private: what belongs to this rank alone; kept in a file of its own.
        check: whether to verify that the ranks' shards cover every tensor once. Costs a gather; once per layout is enough.
    """

    def __init__(self, directory: Path, state: dict[str, Any], private: bytes, ranks: Ranks, check: bool) -> None:
        self.directory = directory
        self._ranks = ranks
        self._private = private
        sharded: Any
        sharded, self._common = save_preprocess(state, check)
        keyed, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded, keep_only_main_replica=True)
        self._writer = _Writer(directory)
        planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
        planned: Any
        planned, *_ = save_state_dict_async_plan(mcore_to_pyt_state_dict(keyed, False), self._writer, planner=planner)
        self._metadata = planned[1]  # of all ranks, on rank 0
        self._failure: Exception | None = None
        self._mine: dict[str, FileDigest] = {}
        self.digests: dict[str, FileDigest] = {}  # of all ranks' files, on rank 0, once sealed
        self._thread = threading.Thread(target=self._write, name=f"save-{directory.name}")

    def start(self) -> None:
        """Starts writing."""
        self._thread.start()

    @property
    def writing(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Returns when this rank's part is written or has failed, or the time is over."""
        self._thread.join(timeout_s)

    def finalize(self) -> None:
        """Makes the directory a checkpoint and all of it durable. Collective; every rank has finished writing.

        Raises:
            SaveError: a rank could not write.
        """
        failure = f"rank {self._ranks.rank}: {self._failure}" if self._failure else ""
        mine = (self._writer.results, failure, self._mine)
        everyone: list[Any] | None = [None] * self._ranks.world if self._ranks.rank == 0 else None
        dist.gather_object(mine, everyone, dst=0, group=self._ranks.control)
        verdict = self._finish(everyone) if everyone is not None else ""
        failures = self._ranks.broadcast_bytes(verdict.encode()).decode()
        if failures:
            raise SaveError(f"{self.directory}: not saved: {failures}")

    def _write(self) -> None:
        try:
            self._mine = self._writer.write()
            name = private_file(self._ranks.rank)
            (self.directory / name).write_bytes(self._private)
            self._mine |= file_digests(self.directory, [name])
            if self._ranks.rank == 0:
                torch.save(self._common, self.directory / COMMON_STATE_FNAME)
        except (OSError, RuntimeError) as error:  # RuntimeError is what torch.save makes of a full disk
            self._failure = error

    def _finish(self, everyone: list[Any]) -> str:
        """Rank 0's last part; returns what went wrong anywhere, or nothing."""
        failures = [failure for _, failure, _ in everyone if failure]
        if failures:
            return "; ".join(failures)
        for _, _, files in everyone:
            self.digests |= files
        try:
            self._writer.finish(self._metadata, [results for results, _, _ in everyone])
            save_config(CheckpointingConfig("torch_dist", 1), str(self.directory))
            _sync(self.directory)
        except OSError as error:
            return f"rank 0: {error}"
        return ""


def private_file(rank: int) -> str:
    """Where a rank keeps what belongs to it alone."""
    return f"rank_{rank:05d}.pt"


class _Writer(FileSystemWriterAsync):
    """Writes one file from a snapshot taken while planning."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.results: list[WriteResult] = []
        self._items: list[tuple[WriteItem, Any]] = []
        self._file_name = ""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Leaves the disk alone: a failure here, amid the collectives of planning, would leave the other ranks waiting."""
        return plan

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        """Copies everything to host memory. Byte items first, as the format has it."""
        self._file_name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        items = sorted(plan.items, key=lambda item: item.type != WriteItemType.BYTE_IO)
        self._items = [(item, _copy(planner.resolve_data(item))) for item in items]

    def write(self) -> dict[str, FileDigest]:
        """Writes and syncs the file; returns its digest, read back while it is in memory. Raises OSError or RuntimeError."""
        if not self._items:
            return {}
        transforms, format_ = _StorageWriterTransforms(), SerializationFormat.TORCH_SAVE
        with (Path(self.checkpoint_dir) / self._file_name).open("wb") as stream:
            for item, data in self._items:
                self.results.append(_write_item(transforms, stream, data, item, self._file_name, format_))
            stream.flush()
            os.fsync(stream.fileno())
        self._items = []
        return file_digests(Path(self.checkpoint_dir), [self._file_name])


def _copy(data: Any) -> Any:
    return data.detach().to("cpu", copy=True) if isinstance(data, torch.Tensor) else data


def _sync(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Plans and writes a rank's share of a checkpoint in Megatron's torch_dist format, without helper processes.

What it changes: a subclass of FileSystemWriterAsync replaces how a file is prepared and written, and this module calls
private functions: Megatron's _replace_state_dict_keys_with_sharded_keys, torch's _StorageWriterTransforms and _write_item.
Why: Megatron's own asynchronous save forks a process per rank and spawns a manager that imports everything anew: seconds of
CPU time for a small model. Bytes are copied and written without the interpreter lock, so a thread does as well.
Written for: megatron-core 0.16.1, torch 2.13.0.
Without it: no checkpoint is saved (learner.megatron.checkpointing.async_save).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
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

from learner.megatron.patches.guard import require_release, require_signature

require_release("megatron-core")
require_release("torch")
require_signature(_replace_state_dict_keys_with_sharded_keys, "(sharded_state_dict, keep_only_main_replica=False)")
require_signature(FileSystemWriterAsync.prepare_local_plan, "(self, plan)")
require_signature(FileSystemWriterAsync.prepare_write_data, "(self, plan, planner)")
require_signature(_StorageWriterTransforms, "(extensions=None)")
require_signature(_write_item, "(transforms, stream, data, write_item, storage_key, serialization_format)")


def plan_save(sharded: Any, directory: Path) -> tuple[CheckpointWriter, Any]:
    """Agrees with the other ranks on who writes what, and copies this rank's share to host memory. Collective.

    Args:
        sharded: a preprocessed Megatron sharded state dict.
        directory: where ``CheckpointWriter.write`` will write.

    Returns:
        The writer that has the copy, and the checkpoint's metadata: all ranks', on rank 0; None elsewhere.
    """
    keyed, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded, keep_only_main_replica=True)
    writer = CheckpointWriter(directory)
    planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
    planned: Any
    planned, *_ = save_state_dict_async_plan(mcore_to_pyt_state_dict(keyed, False), writer, planner=planner)
    return writer, planned[1]


class CheckpointWriter(FileSystemWriterAsync):
    """Writes one file from a snapshot that was taken while planning.

    Attributes:
        results: what has been written, for ``finish`` on rank 0.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.results: list[WriteResult] = []
        self._items: list[tuple[WriteItem, Any]] = []
        self._file_name = ""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Returns ``plan`` and leaves the disk alone.

        A failure here, between the collectives of planning, would leave the other ranks waiting.
        """
        return plan

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        """Copies everything to host memory. Byte items come first, as the format has it."""
        self._file_name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        items = sorted(plan.items, key=lambda item: item.type != WriteItemType.BYTE_IO)
        self._items = [(item, _copy_to_host(planner.resolve_data(item))) for item in items]

    def write(self) -> list[str]:
        """Writes and fsyncs this rank's file. Not collective.

        Returns:
            The file's name, relative to the directory; nothing if this rank has nothing to write.

        Raises:
            OSError: the file cannot be written.
            RuntimeError: what torch.save makes of a full disk.
        """
        if not self._items:
            return []
        transforms, format_ = _StorageWriterTransforms(), SerializationFormat.TORCH_SAVE
        with (Path(self.checkpoint_dir) / self._file_name).open("wb") as stream:
            for item, data in self._items:
                self.results.append(_write_item(transforms, stream, data, item, self._file_name, format_))
            stream.flush()
            os.fsync(stream.fileno())
        self._items = []
        return [self._file_name]


def _copy_to_host(data: Any) -> Any:
    return data.detach().to("cpu", copy=True) if isinstance(data, torch.Tensor) else data

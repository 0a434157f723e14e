"""Plans and writes a rank's share of a checkpoint in Megatron's torch_dist format, without helper processes.

What it changes: a subclass of FileSystemWriterAsync replaces how a file is prepared and written, and this module calls
private functions: Megatron's _replace_state_dict_keys_with_sharded_keys, torch's _StorageWriterTransforms and _write_item.
Why: Megatron's own asynchronous save forks a process per rank and spawns a manager that imports everything anew: seconds of
CPU time for a small model. Bytes are copied and written without the interpreter lock, so a thread does as well.
Written for: megatron-core 0.16.1 and 0.19.2, torch 2.13.0.
Without it: no checkpoint is saved (learner.megatron.checkpointing.async_save).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedBase, is_main_replica
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.state_dict_saver import save_state_dict_async_plan
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch import Tensor
from torch.distributed.checkpoint.filesystem import (
    DEFAULT_SUFFIX,
    SerializationFormat,
    _StorageWriterTransforms,
    _write_item,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
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

Content = Tensor | io.BytesIO
_Place = tuple[str, tuple[int, ...]]  # the whole tensor's name, and where in it


@dataclass(frozen=True)
class Share:
    """What a rank writes, as all ranks have agreed: the same at every save of a run, only the values are others.

    Attributes:
        items: what its file consists of, in this order: bytes come first, as the format has it.
        file: name of its file.
        metadata: the checkpoint's: all ranks', on rank 0; None elsewhere.
    """

    items: list[WriteItem]
    file: str
    metadata: Metadata | None

    def contents(self, shards: Iterable[ShardedBase]) -> list[Content]:
        """Finds the values of ``items`` among the shards that the share was agreed on.

        Raises:
            RuntimeError: the shards are others.
        """
        found = dict(_content(shard) for shard in shards if is_main_replica(shard.replica_id))
        planned = [(item.index.fqn, tuple(item.index.offset or ())) for item in self.items]
        if found.keys() != set(planned):
            raise RuntimeError(f"not what was planned to be saved: {sorted(found.keys() ^ set(planned))[:4]}")
        return [found[place] for place in planned]


def agree(shards: Sequence[ShardedBase]) -> Share:
    """Agrees with the other ranks on who writes what. Collective.

    Raises:
        CheckpointingException, CheckpointException: the ranks' shards overlap or leave something out.
    """
    named = {str(number): shard for number, shard in enumerate(shards)}
    keyed, _, _ = _replace_state_dict_keys_with_sharded_keys(named, keep_only_main_replica=True)
    planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
    planned: Any
    plan: SavePlan
    planned, plan, *_ = save_state_dict_async_plan(
        mcore_to_pyt_state_dict(keyed, False), CheckpointWriter(Path()), planner=planner
    )
    metadata: Metadata | None = planned[1]
    if metadata is not None:
        _require_all(metadata)
    items = sorted(plan.items, key=lambda item: item.type != WriteItemType.BYTE_IO)
    storage: Any = plan.storage_data
    return Share(items, f"{storage.prefix}0{DEFAULT_SUFFIX}", metadata)


class CheckpointWriter(FileSystemWriterAsync):
    """Writes one file."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Returns ``plan`` and leaves the disk alone.

        A failure here, between the collectives of planning, would leave the other ranks waiting.
        """
        return plan

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        """Does nothing: what is planned is copied at every save, and planned once."""

    def write(self, share: Share, contents: Sequence[Content]) -> list[WriteResult]:
        """Writes and fsyncs this rank's file. Not collective.

        Args:
            share: what to write.
            contents: its values, in host memory.

        Returns:
            What was written, for ``finish`` on rank 0; nothing, and no file, if this rank has nothing to write.

        Raises:
            OSError: the file cannot be written.
            RuntimeError: what torch.save makes of a full disk.
        """
        if not share.items:
            return []
        transforms, format_, results = _StorageWriterTransforms(), SerializationFormat.TORCH_SAVE, []
        with (Path(self.checkpoint_dir) / share.file).open("wb") as stream:
            for item, data in zip(share.items, contents, strict=True):
                results.append(_write_item(transforms, stream, data, item, share.file, format_))
            stream.flush()
            os.fsync(stream.fileno())
        return results


def _content(shard: ShardedBase) -> tuple[_Place, Content]:
    """Where a shard belongs in the checkpoint, and what is written there."""
    if isinstance(shard, ShardedObject):
        content = io.BytesIO()
        torch.save([shard.data], content)
        return (shard.unique_key, ()), content
    assert isinstance(shard, ShardedTensor)
    assert shard.data is not None
    shape = (1,) * shard.prepend_axis_num + tuple(shard.local_shape)
    return (shard.key, tuple(shard.global_offset)), shard.data.detach().reshape(shape)


def _require_all(metadata: Metadata) -> None:
    """Looks whether every tensor is written whole; torch looks for overlaps, and for gaps if there are several ranks."""
    for name, tensor in metadata.state_dict_metadata.items():
        if isinstance(tensor, TensorStorageMetadata):
            written = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
            if written != math.prod(tensor.size):
                raise CheckpointingException(
                    f"{name}: the ranks would write {written} of {math.prod(tensor.size)} elements"
                )

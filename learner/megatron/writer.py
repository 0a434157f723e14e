"""megatron's torch_dist save with the bytes written by a thread instead of by forked processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.state_dict_saver import (
    save_state_dict_async_finalize,
    save_state_dict_async_plan,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
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


class ThreadedSaveStrategy(TorchDistSaveShardedStrategy):
    """One file a rank. The request it returns may run in a thread: it reads a snapshot and talks to no other rank."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1, thread_count=1)
        self.planned = False  # whether a save has been planned (and its access pattern checked) before

    def async_save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> AsyncRequest:
        """Plans the save with all ranks and snapshots this rank's tensors. Collective."""
        keyed, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        writer = _SnapshotWriter(checkpoint_dir)
        planned, *_ = save_state_dict_async_plan(
            mcore_to_pyt_state_dict(keyed, False),
            writer,
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )
        self.planned = True
        return AsyncRequest(writer.write, (), [lambda: save_state_dict_async_finalize(*planned)])


class _SnapshotWriter(FileSystemWriterAsync):
    """Writes one file from a snapshot taken while planning."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._items: list[tuple[WriteItem, Any]] = []
        self._file_name = ""
        self._results: list[WriteResult] = []
        self._failure: Exception | None = None

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        """Copies everything to host memory: training changes the tensors while they are written."""
        self._file_name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        self._items = [(item, _snapshot(planner.resolve_data(item))) for item in plan.items]

    def write(self) -> None:
        """Writes and syncs the file. Failures are kept for retrieve_write_results: it runs in a thread."""
        if not self._items:
            return
        path = Path(self.checkpoint_dir) / self._file_name
        try:
            with path.open("wb") as stream:
                # Bytes first, as the reader of this format expects.
                for item, data in sorted(self._items, key=lambda pair: pair[0].type != WriteItemType.BYTE_IO):
                    self._results.append(
                        _write_item(
                            _StorageWriterTransforms(),
                            stream,
                            data,
                            item,
                            self._file_name,
                            SerializationFormat.TORCH_SAVE,
                        )
                    )
                stream.flush()
                os.fsync(stream.fileno())
        except (OSError, RuntimeError) as error:  # RuntimeError: what torch.save makes of a full disk
            self._failure = error
        self._items = []

    def retrieve_write_results(self) -> Any:
        """What was written, or the failure in the form that megatron gathers."""
        if self._failure is None:
            return self._results
        from torch.distributed.checkpoint.api import _wrap_exception

        return _wrap_exception(self._failure)


def _snapshot(data: Any) -> Any:
    return data.detach().to("cpu", copy=True) if isinstance(data, torch.Tensor) else data

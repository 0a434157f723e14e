"""Saving and loading model and optimizer: megatron's torch_dist format, readable under any other parallel layout.

A save runs in three parts. Planning and the snapshot to host memory happen in the caller, collectively; writing happens in
a thread of each rank while training goes on; sealing (the metadata, which makes the directory a checkpoint) happens in the
caller again, collectively, once every rank has written. Megatron's own way is a forked process a rank plus a spawned
manager that imports everything again, seconds of CPU time for a small model; the bytes are written without the interpreter
lock, so a thread does not hold training up.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy

from learner.megatron import adam
from learner.megatron.model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.step import Trainer
from learner.megatron.writer import ThreadedSaveStrategy


class ShardedState:
    """Saves and loads a policy and its optimizer; every method is collective.

    Nothing but its own directory is touched. When ``poll`` returns True every file in it and the directory's list of names
    are on disk (fsync); before that the directory has no ``metadata.json`` and cannot be loaded.
    """

    def __init__(self, policy: Policy, trainer: Trainer, ranks: Ranks) -> None:
        self._policy = policy
        self._trainer = trainer
        self._ranks = ranks
        self._strategy = ThreadedSaveStrategy()
        self._saving: _Save | None = None

    def begin_save(self, directory: Path) -> None:
        """Snapshots to host memory and starts writing into ``directory``, which exists and is empty.

        Raises:
            RuntimeError: the save before it is still under way: poll(blocking=True) first.
        """
        if self._saving is not None:
            raise RuntimeError(f"begin_save({directory}): {self._saving.directory} is still being written")
        adam.prime(self._trainer.optimizer)
        request = dist_checkpointing.save(
            self._sharded(loading=False),
            str(directory),
            self._strategy,
            validate_access_integrity=not self._strategy.planned,  # the layout cannot change: once is enough
            async_sharded_save=True,
        )
        self._saving = _Save(directory, request)

    def poll(self, blocking: bool) -> bool:
        """True, on every rank, once the save under way is durable; then no save is under way any more.

        Raises:
            OSError, CheckpointException: a rank could not write; the directory is no checkpoint. Raised on every rank.
        """
        if self._saving is None:
            return False
        if blocking:
            self._saving.wait()
        running = torch.tensor([int(self._saving.running)])
        dist.all_reduce(running, group=self._ranks.control)
        if running.item():
            return False
        save, self._saving = self._saving, None
        save.seal(lead=self._ranks.rank == 0)
        return True

    def load(self, directory: Path) -> None:
        """Restores weights, Adam's moments and its step count, whatever layout they were saved from.

        Raises:
            megatron.core.dist_checkpointing.core.CheckpointingException: not a complete checkpoint of this model.
        """
        adam.prime(self._trainer.optimizer)
        loaded = dist_checkpointing.load(
            self._sharded(loading=True), str(directory), TorchDistLoadShardedStrategy(), validate_access_integrity=False
        )
        self._policy.model.load_state_dict(loaded["model"])
        self._trainer.optimizer.load_state_dict(loaded["optimizer"])

    def _sharded(self, loading: bool) -> dict[str, Any]:
        metadata = {
            # The default of this version fails without TransformerEngine, and only this one loads under another layout.
            "distrib_optim_sharding_type": "fully_reshardable",
            "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        }
        model = self._policy.model.sharded_state_dict(metadata=metadata)
        optimizer = self._trainer.optimizer.sharded_state_dict(model, is_loading=loading, metadata=metadata)
        return {"model": model, "optimizer": optimizer}


class _Save:
    """A save whose bytes are being written."""

    def __init__(self, directory: Path, request: Any) -> None:
        self.directory = directory
        self._seal = request.finalize_fns
        self._thread = None
        if request.async_fn is not None:
            self._thread = threading.Thread(
                target=request.async_fn, args=request.async_fn_args, name=f"save {directory.name}"
            )
            self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def seal(self, lead: bool) -> None:
        """Collective: gathers what every rank wrote, writes the metadata, makes all of it durable."""
        for finish in self._seal:
            finish()
        if lead:
            _sync(self.directory)


def _sync(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

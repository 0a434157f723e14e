"""Saving and loading model and optimizer, under any parallel layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy
from torch.distributed.checkpoint.api import CheckpointException

from learner.megatron.checkpointing import rng
from learner.megatron.checkpointing.async_save import AsyncSave, private_file
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.patches import adam
from learner.megatron.training.trainer import Trainer
from learner.storage.digests import FileDigest
from runtime.errors import LeewayError

_WORD_S = 1.0  # between two rounds of asking


class LoadError(LeewayError):
    """A checkpoint that cannot be loaded; the message names the directory."""


class ShardedState:
    """Saves and loads a policy, its optimizer and random states; every method is collective.

    When ``poll`` returns True every file in the directory, and its list of names, is on disk (fsync). Before that it has no
    ``metadata.json`` and cannot be loaded.
    """

    def __init__(self, policy: Policy, trainer: Trainer, ranks: Ranks) -> None:
        self._policy = policy
        self._trainer = trainer
        self._ranks = ranks
        self._saving: AsyncSave | None = None
        self._digests: dict[str, FileDigest] = {}
        self._checked = False  # the layout cannot change: its coverage is verified once

    def begin_save(self, directory: Path) -> None:
        """Snapshots to host memory and starts writing into ``directory``, which exists and is empty.

        Raises:
            RuntimeError: the save before it is still under way: poll(blocking=True) first.
        """
        if self._saving is not None:
            raise RuntimeError(f"begin_save({directory}): {self._saving.directory} is still being written")
        adam.prime(self._trainer.optimizer)
        private = rng.capture(self._ranks)
        self._saving = AsyncSave(directory, self._sharded(loading=False), private, self._ranks, check=not self._checked)
        self._checked = True
        self._saving.start()

    def poll(self, blocking: bool) -> bool:
        """True, on every rank, once the save under way is durable; False while it is written and when there is none.

        Raises:
            SaveError: a rank could not write. Raised on every rank; the next save may begin.
        """
        if self._saving is None:
            return False
        while self._anybody_writes(self._saving, _WORD_S if blocking else 0.0):
            if not blocking:
                return False
        save, self._saving = self._saving, None
        save.finalize()
        self._digests = save.digests
        return True

    def _anybody_writes(self, saving: AsyncSave, patience_s: float) -> bool:
        """Asked again and again: a rank that has written must not run into the limit of a collective for one that has not."""
        saving.wait(patience_s)
        writing = torch.tensor([int(saving.writing)])
        dist.all_reduce(writing, group=self._ranks.control)
        return bool(writing.item())

    def digests(self) -> dict[str, FileDigest]:
        """The ranks' own files of the last durable save, as each rank wrote them. Complete on rank 0."""
        return self._digests

    def load(self, directory: Path) -> None:
        """Restores weights, Adam's moments and its step count, whatever layout they were saved from.

        The random states come back too, when the layout is the same.

        Raises:
            LoadError: not a complete checkpoint of this model.
        """
        adam.prime(self._trainer.optimizer)
        wanted = self._sharded(loading=True)
        try:
            loaded: Any = dist_checkpointing.load(
                wanted, str(directory), TorchDistLoadShardedStrategy(), validate_access_integrity=False
            )
        except (CheckpointingException, CheckpointException, OSError) as error:
            raise LoadError(f"{directory}: not a complete checkpoint of this model ({error})") from error
        for name, model in zip(_names(self._policy), self._policy.models, strict=True):
            model.load_state_dict(loaded[name])
        self._trainer.optimizer.load_state_dict(loaded["optimizer"])
        self._restore_random_state(directory / private_file(self._ranks.rank))

    def _restore_random_state(self, path: Path) -> None:
        try:
            same = path.is_file() and rng.restore(path.read_bytes(), self._ranks)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise LoadError(f"{path}: no random states ({error})") from error
        if not same and self._ranks.rank == 0:
            structlog.get_logger().info(
                "another layout: random states begin anew from the seed", checkpoint=str(path.parent)
            )

    def _sharded(self, loading: bool) -> dict[str, Any]:
        metadata = {
            # The default of this version fails without TransformerEngine, and only this one loads under another layout.
            "distrib_optim_sharding_type": "fully_reshardable",
            # Experts have an optimizer of their own; a tensor's moments are known by the tensor alone.
            "chained_optim_avoid_prefix": True,
            "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        }
        models = {
            name: model.sharded_state_dict(metadata=metadata)
            for name, model in zip(_names(self._policy), self._policy.models, strict=True)
        }
        optimizer = self._trainer.optimizer.sharded_state_dict(models, is_loading=loading, metadata=metadata)
        return {**models, "optimizer": optimizer}


def _names(policy: Policy) -> list[str]:
    """Where each piece of the model stands in this rank's state; on disk, tensors are known by their place in the whole."""
    return [f"model{chunk}" for chunk in range(len(policy.chunks))]

"""Saves and loads the model and the optimizer, under any parallel layout."""

from __future__ import annotations

from collections.abc import Callable
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
from learner.megatron.checkpointing.adapter_state import sharded_adapters
from learner.megatron.checkpointing.async_save import AsyncSave, RankState, private_file
from learner.megatron.checkpointing.own_state import optimizer_shards, own_shards
from learner.megatron.host_buffer import HostBuffer
from learner.megatron.model.lora import matrices
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.patches import adam_state
from learner.megatron.patches.checkpoint_writer import Share, agree
from learner.megatron.patches.optimizer_ranges import OwnRange, own_ranges
from learner.megatron.training.gradient_projection import GradientProjection
from learner.megatron.training.trainer import Trainer
from learner.megatron.training.update_meter import optimizer_parts
from learner.megatron.training.weight_average import WeightAverage
from learner.storage.digests import FileDigest
from runtime.errors import LeewayError

_POLL_S = 1.0  # between two rounds of asking whether all ranks have written


class LoadError(LeewayError):
    """A checkpoint cannot be loaded; the message names the directory or file."""


class ShardedState:
    """Saves and loads a policy, its optimizer and random states. Every method but ``digests`` is collective.

    Where adapters are trained, they are all that is saved of the policy: a learner that resumes loads the model that they
    adapt from its own directory (learner.checkpoint.fingerprint has its digest).

    Once ``poll`` returns True, every file of the directory and the directory itself have been synced to disk. Before that the
    directory has no ``metadata.json`` and cannot be loaded.
    """

    def __init__(self, policy: Policy, trainer: Trainer, ranks: Ranks, average: WeightAverage | None = None) -> None:
        self._policy = policy
        self._trainer = trainer
        self._ranks = ranks
        self._average = average
        self._saving: AsyncSave | None = None
        self._digests: dict[str, FileDigest] = {}
        self._share: Share | None = None  # the layout cannot change: it is agreed once
        self._buffer = HostBuffer(ranks.device, "a checkpoint")
        trainer.before_update(self._before_update)

    def begin_save(self, directory: Path) -> None:
        """Copies the state to host memory and starts writing it into ``directory``, which exists and is empty.

        From a GPU it is copied while training goes on, up to the optimizer's next step.

        Raises:
            RuntimeError: the previous save is still under way: call poll(blocking=True) first.
        """
        if self._saving is not None:
            raise RuntimeError(f"begin_save({directory}): {self._saving.directory} is still being written")
        shards = own_shards(self._models(), self._ranges(self._average, self._trainer.projection))
        self._share = self._share or agree(shards)
        common = {"optimizer": self._trainer.optimizer.state_dict()}
        state = RankState(self._share.contents(shards), common, rng.capture(self._ranks))
        self._saving = AsyncSave(directory, self._share, state, self._buffer, self._ranks)
        self._saving.start()

    def poll(self, blocking: bool) -> bool:
        """Returns True, on every rank, once the save under way is durable; False while it is written, or if there is none.

        Args:
            blocking: whether to wait for the save under way.

        Raises:
            SaveError: a rank could not write. Raised on every rank; another save may begin.
        """
        if self._saving is None:
            return False
        while self._any_rank_writes(self._saving, _POLL_S if blocking else 0.0):
            if not blocking:
                return False
        save, self._saving = self._saving, None
        save.finalize()
        self._digests = save.digests
        return True

    def _any_rank_writes(self, saving: AsyncSave, wait_s: float) -> bool:
        """Whether some rank is still writing, after waiting ``wait_s`` seconds for this one.

        Asked repeatedly, so that a rank that has written does not run into the timeout of a collective while another writes.
        """
        saving.wait(wait_s)
        writing = torch.tensor([int(saving.writing)])
        dist.all_reduce(writing, group=self._ranks.control)
        return bool(writing.item())

    @property
    def copied(self) -> int:
        """Bytes of host memory that this rank's copies are kept in; 0 before the first save."""
        return self._buffer.nbytes

    def digests(self) -> dict[str, FileDigest]:
        """Digests of the files of the last durable save, by name, as each rank wrote them; on rank 0, empty elsewhere."""
        return self._digests

    def load(self, directory: Path) -> None:
        """Restores weights, their average, Adam's moments and step count, and the last gradient, whatever the layout was.

        An average that the checkpoint does not have starts from the weights; without a last gradient, where gradients are
        projected, the first one is not. Log lines say so.

        Weight decay, betas and eps are the configuration's, not the checkpoint's; what that changes is logged. If the layout
        is the same, the random states are restored too.

        Raises:
            LoadError: ``directory`` is not a complete checkpoint of this model.
        """
        self._before_update()
        models, strategy = self._models(), TorchDistLoadShardedStrategy()
        try:
            average = self._average if self._average and _has(WeightAverage.is_part, directory, strategy) else None
            projection = self._trainer.projection
            if projection is not None and not _has(GradientProjection.is_part, directory, strategy):
                projection = None
            wanted = {**models, "shards": optimizer_shards(models, self._ranges(average, projection))}
            loaded: Any = dist_checkpointing.load(wanted, str(directory), strategy, validate_access_integrity=False)
        except (CheckpointingException, CheckpointException, OSError) as error:
            raise LoadError(f"{directory}: not a complete checkpoint of this model ({error})") from error
        for name, model in zip(_names(self._policy), self._policy.models, strict=True):
            model.load_state_dict(loaded[name], strict=self._policy.lora is None)
        self._trainer.optimizer.load_state_dict(loaded["optimizer"])
        if self._average is not None and average is None:
            self._average.restart()
            self._log("the checkpoint has no average of the weights: it starts from them", checkpoint=str(directory))
        if projection is not None:
            projection.resume()
        elif self._trainer.projection is not None:
            self._log("the checkpoint has no last gradient: the first one is not projected", checkpoint=str(directory))
        changed = self._trainer.use_configured_settings()
        for name, (before, now) in changed.items():
            self._log(
                "optimizer setting changed at this resume", setting=f"optimizer.{name}", checkpoint=before, now=now
            )
        self._restore_random_state(directory / private_file(self._ranks.rank))

    def _log(self, event: str, **facts: Any) -> None:
        if self._ranks.rank == 0:
            structlog.get_logger().warning(event, **facts)

    def _ranges(self, average: WeightAverage | None, projection: GradientProjection | None) -> list[OwnRange]:
        """What this rank's optimizers own: weights, Adam's moments and, if given, the average and the last gradient."""
        optimizers = optimizer_parts(self._trainer.optimizer)
        adam_state.initialize(optimizers)
        ranges = [own for optimizer in optimizers for own in own_ranges(optimizer)]
        if average is not None:
            ranges = [average.joined(own) for own in ranges]
        return ranges if projection is None else projection.joined(ranges)

    def _restore_random_state(self, path: Path) -> None:
        try:
            same = path.is_file() and rng.restore(path.read_bytes(), self._ranks)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise LoadError(f"{path}: no random states ({error})") from error
        if not same and self._ranks.rank == 0:
            structlog.get_logger().info(
                "checkpoint of another layout: random states start from the seed", checkpoint=str(path.parent)
            )

    def _before_update(self) -> None:
        """Lets an update of the weights wait until the save under way has copied them."""
        if self._saving is not None:
            self._saving.protect()

    def _models(self) -> dict[str, Any]:
        """Megatron's sharded state dict of each model chunk, or that of its adapters."""
        if self._policy.lora is not None:
            found = matrices(self._policy.models)
            chunks = zip(_names(self._policy), self._policy.models, strict=True)
            return {name: sharded_adapters(model, found, self._ranks) for name, model in chunks}
        metadata = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
        return {
            name: model.sharded_state_dict(metadata=metadata)
            for name, model in zip(_names(self._policy), self._policy.models, strict=True)
        }


def _has(is_part: Callable[[str], bool], directory: Path, strategy: TorchDistLoadShardedStrategy) -> bool:
    return any(map(is_part, strategy.load_tensors_metadata(directory)))


def _names(policy: Policy) -> list[str]:
    """Keys of the model chunks in this rank's state. On disk a tensor's name does not depend on its chunk."""
    return [f"model{chunk}" for chunk in range(len(policy.chunks))]

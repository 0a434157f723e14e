"""The ranks' part of the kill-and-resume test: steps from the newest checkpoint on, each followed by a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.checkpoint.saver import Checkpointer
from learner.checkpoint.store import latest
from learner.config import CheckpointConfig
from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.objectives.policy_gradient import Reinforce
from learner.queue import GroupRef
from learner.storage.fence import DirectoryFence
from tests.parallel.case import Case


class _Silent:
    """A learner queue that does nothing: the test has none."""

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        pass

    def not_saved(self, step: int, error: Exception) -> None:
        raise error


def march(case: Case) -> dict[str, Any]:
    """Takes ``steps`` steps, each on other sequences; writes each loss to <out>/<case>.losses before the next step."""
    spec, ranks = case.spec, case.ranks
    root, lead = Path(spec["checkpoints"]), ranks.rank == 0
    fence = DirectoryFence(root, spec["epoch"])
    if lead:
        fence.acquire()
    ranks.barrier()
    state = ShardedState(case.policy, case.trainer, ranks)
    found = latest(root)
    if found is not None:
        state.load(found.directory)
    start = found.step if found else 0
    config = CheckpointConfig(dir=root, every=spec.get("every", 1), keep=3)
    saver = Checkpointer(config, fence, state, _Silent() if lead else None, ranks.barrier)
    with (case.out / f"{spec['name']}.losses").open("a") as losses:
        for step in range(start, start + spec["steps"]):
            some = [sequence for i, sequence in enumerate(case.sequences) if (i + step) % 3]
            stats = case.trainer.train_step(case.batch(some), Reinforce(), spec["lr"])
            saver.after_step(step + 1, [])
            if lead:
                losses.write(f"{step} {stats.loss!r}\n")
                losses.flush()
    saver.finish()
    return {"start": start}

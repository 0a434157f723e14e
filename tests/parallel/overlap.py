"""The ranks' part of test_overlap: steps, versions, checkpoints and scores where communication overlaps with computation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from learner.batch.packing import pack
from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.megatron.training.scorer import Scorer
from learner.objectives.policy_gradient import Reinforce
from tests.parallel.case import Case


def overlap(case: Case) -> dict[str, Any]:
    """Takes five steps; after the second it exports, saves, scores on rank 0 only, and searches for a culprit.

    The third step has micro-batches without loss, and the fourth is skipped.
    """
    state, scorer = ShardedState(case.policy, case.trainer, case.ranks), Scorer(case.policy, case.ranks, "float32")
    stats = [case.step()]
    case.keep("first", case.export())
    stats.append(case.step())
    directory = Path(case.spec["checkpoint"])
    if case.ranks.rank == 0:
        directory.mkdir()
    case.ranks.barrier()
    state.begin_save(directory)
    assert state.poll(blocking=True)
    scorer.prepare()
    scoring = case.ranks.data_rank == 0 or case.ranks.expert_size > 1  # ranks with others' experts score together
    few = pack(case.sequences[:2], replace(case.layout, data_ranks=1)) if scoring else None
    scores = [] if few is None else [one.tolist() for one in scorer.score(few)]
    stats.append(case.trainer.train_step(case.batch(case.sequences[:3]), Reinforce(), case.spec["lr"]))
    stats.append(case.trainer.gradient(case.batch(), Reinforce()))
    stats.append(case.step())
    case.keep("last", case.export())
    buckets = sum(len(buffer.buckets) for chunk in case.policy.chunks for buffer in chunk.buffers)  # pyright: ignore[reportGeneralTypeIssues]
    settings = [chunk.ddp_config for chunk in case.policy.chunks]
    return {
        "losses": [one.loss for one in stats],
        "norms": [one.grad_norm for one in stats],
        "scores": scores,
        "buckets": buckets,
        "on": [one.overlap_grad_reduce and one.overlap_param_gather for one in settings],
    }


def resumed(case: Case) -> dict[str, Any]:
    """Loads what ``overlap`` saved, under another layout or without overlap, and exports it."""
    ShardedState(case.policy, case.trainer, case.ranks).load(Path(case.spec["checkpoint"]))
    case.keep("loaded", case.export())
    return {"losses": [case.trainer.train_step(case.batch(case.sequences[:3]), Reinforce(), case.spec["lr"]).loss]}

"""Gives an objective the log-ratios of a whole step, before its losses."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.types import Batch
from learner.megatron.parallel import Ranks
from learner.objectives import Objective


def survey_step(objective: Objective, ranks: Ranks, batch: Batch, log_ratio: Tensor) -> None:
    """Calls ``objective.survey`` on every rank with the same tokens: those of all data ranks, in the order of the ranks.

    Collective. All ranks get all values, 8 bytes a token, rather than one of them a result: what the objective makes of
    them is its own affair, and the state of all ranks stays equal by itself.

    Args:
        objective: the objective of the run.
        ranks: the parallel layout, and this rank's indices in it.
        batch: the batch of this data rank.
        log_ratio: [L of all micro-batches] float, log(pi / mu) of its loss tokens, true on the last pipeline stage.
    """
    own = torch.zeros(2, 0)
    if ranks.is_last_stage and not ranks.tensor_rank and not ranks.context_rank:
        advantages = [micro_batch.advantage[micro_batch.loss_row] for micro_batch in batch.micro_batches]
        own = torch.stack([log_ratio.cpu().float(), torch.cat(advantages).cpu()])
    counts = torch.zeros(ranks.world, dtype=torch.int64)
    counts[ranks.rank] = own.shape[1]
    dist.all_reduce(counts, group=ranks.control)
    pieces = [own[:, :0]]
    for source, count in enumerate(counts.tolist()):
        if count:
            piece = own if source == ranks.rank else torch.empty(2, count)
            dist.broadcast(piece, src=source, group=ranks.control)
            pieces.append(piece)
    objective.survey(*torch.cat(pieces, 1))

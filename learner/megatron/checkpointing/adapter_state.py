"""Adapters as parts of a checkpoint: each matrix has the name that peft has for it, whatever the layout."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from megatron.core.dist_checkpointing import ShardedTensor

from learner.megatron.model.adapter import Matrix
from learner.megatron.parallel import Ranks


def sharded_adapters(model: torch.nn.Module, matrices: Iterable[Matrix], ranks: Ranks) -> dict[str, ShardedTensor]:
    """This rank's part of a model chunk's adapters, each with its place in the whole matrix, by the parameters' names.

    It is all of the chunk that a checkpoint has: the model that is adapted never changes.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[matrix.parameter]: _sharded(matrix, ranks) for matrix in matrices if matrix.parameter in names}


def _sharded(matrix: Matrix, ranks: Ranks) -> ShardedTensor:
    cut = [] if matrix.dim is None else [(matrix.dim, ranks.tensor_rank, ranks.tensor_size)]
    # Ranks with equal values, of which the first writes them: those of other tokens, and without a cut the tensor ranks too.
    replica = (0, 0 if cut else ranks.tensor_rank, ranks.replica_rank)
    return ShardedTensor.from_rank_offsets(matrix.name, matrix.parameter, *cut, replica_id=replica)

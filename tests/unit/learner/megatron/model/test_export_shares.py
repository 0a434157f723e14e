"""Who exports what of a stage: every tensor once, by a rank that has it, and nobody much more than the others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
import torch

from learner.megatron.model.convert import Piece, _shares
from learner.megatron.parallel import Ranks

_NONE = cast(Any, None)


def stage(tensor: int, context: int, data: int, expert: int) -> list[Ranks]:
    """Its ranks in order: tensor first, then context, then data; expert-parallel ones are neighbours."""
    places = [(t, c, d) for d in range(data) for c in range(context) for t in range(tensor)]
    return [
        Ranks(
            rank=number,
            world=len(places),
            tensor_rank=t,
            tensor_size=tensor,
            pipeline_rank=0,
            pipeline_size=1,
            chunks=1,
            context_rank=c,
            context_size=context,
            expert_rank=number % expert,
            expert_size=expert,
            data_rank=d,
            data_size=data,
            sequence=tensor > 1,
            device=torch.device("cpu"),
            tensor_group=_NONE,
            context_group=_NONE,
            expert_group=_NONE,
            control=_NONE,
            timeout=timedelta(seconds=1),
        )
        for number, (t, c, d) in enumerate(places)
    ]


def pieces(ranks: Ranks, experts: int, layers: int = 3) -> list[Piece]:
    """An embedding, norms, attention and experts; the expert's name is its number over the whole layer."""

    def piece(name: str, rows: int, dim: int | None = None, expert: bool = False) -> Piece:
        return Piece(torch.nn.Parameter(torch.empty(rows, 4)), (name,), dim, "plain", expert)

    local = experts // ranks.expert_size
    found = [piece("embedding", 200 // ranks.tensor_size, 0)]
    for layer in range(layers):
        found += [piece(f"{layer}.norm", 2), piece(f"{layer}.attention", 40 // ranks.tensor_size, 0)]
        numbers = range(ranks.expert_rank * local, (ranks.expert_rank + 1) * local)
        found += [piece(f"{layer}.expert{number}", 30, expert=True) for number in numbers]
    return found


@pytest.mark.parametrize(
    "cut",
    [(1, 1, 1, 1), (2, 1, 1, 2), (1, 1, 4, 2), (2, 1, 2, 4), (2, 2, 2, 4), (1, 2, 2, 2), (2, 1, 3, 1), (2, 1, 3, 3)],
)
def test_every_tensor_is_exported_once_and_by_a_rank_that_has_it(cut):
    ranks = stage(*cut)
    exported: list[str] = []
    loads = []
    for one in ranks:
        shared, own = _shares(pieces(one, experts=12), one)
        assert len(shared) == one.tensor_size
        mine = [piece.names[0] for piece in [*shared[one.tensor_rank], *own]]
        assert {piece.names[0] for piece in own} <= {piece.names[0] for piece in pieces(one, experts=12)}
        loads.append(sum(_rows(name) for name in mine))
        exported += mine
    everything = {piece.names[0] for one in ranks for piece in pieces(one, experts=12)}
    assert sorted(exported) == sorted(everything)
    assert max(loads) - min(loads) <= 200  # the largest tensor


@pytest.mark.parametrize("cut", [(2, 1, 2, 4), (2, 2, 1, 2)])
def test_ranks_that_put_a_tensor_together_agree_on_who_gets_it(cut):
    """Else they would wait for each other for ever."""
    plans: dict[tuple[int, int], set[str]] = {}
    for one in stage(*cut):
        shared, _ = _shares(pieces(one, experts=12), one)
        plan = str([[piece.names for piece in share] for share in shared])
        plans.setdefault((one.data_rank, one.context_rank), set()).add(plan)
    assert all(len(plan) == 1 for plan in plans.values())


def _rows(name: str) -> int:
    return next(rows for word, rows in _SIZES.items() if word in name)


_SIZES = {"embedding": 200, "norm": 2, "attention": 40, "expert": 30}

"""Which rank exports what of a stage: every tensor once, by a rank that has it, and no rank much more than the others.

And what is exported is the weights of one moment, in memory that is there already.
"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.model import export
from learner.megatron.model.convert import Kind, ParameterMapping
from learner.megatron.model.export import Exporter, _shares
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks

_NONE = cast(Any, None)


def stage(tensor: int, context: int, data: int, expert: int) -> list[Ranks]:
    """All ranks of one stage, numbered tensor first, then context, then data; expert-parallel ranks are neighbours."""
    indices = [(t, c, d) for d in range(data) for c in range(context) for t in range(tensor)]
    return [
        Ranks(
            rank=number,
            world=len(indices),
            local_size=len(indices),
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
        for number, (t, c, d) in enumerate(indices)
    ]


def mappings(ranks: Ranks, experts: int, layers: int = 3) -> list[ParameterMapping]:
    """An embedding, norms, attention and experts; an expert is named by its index over the whole layer."""

    def mapping(name: str, rows: int, dim: int | None = None, expert: bool = False) -> ParameterMapping:
        return ParameterMapping(torch.nn.Parameter(torch.empty(rows, 4)), (name,), dim, "plain", expert)

    local = experts // ranks.expert_size
    found = [mapping("embedding", 200 // ranks.tensor_size, 0)]
    for layer in range(layers):
        found += [mapping(f"{layer}.norm", 2), mapping(f"{layer}.attention", 40 // ranks.tensor_size, 0)]
        numbers = range(ranks.expert_rank * local, (ranks.expert_rank + 1) * local)
        found += [mapping(f"{layer}.expert{number}", 30, expert=True) for number in numbers]
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
        shared, own = _shares(mappings(one, experts=12), one)
        assert len(shared) == one.tensor_size
        mine = [mapping.names[0] for mapping in [*shared[one.tensor_rank], *own]]
        assert {mapping.names[0] for mapping in own} <= {mapping.names[0] for mapping in mappings(one, experts=12)}
        loads.append(sum(_rows(name) for name in mine))
        exported += mine
    everything = {mapping.names[0] for one in ranks for mapping in mappings(one, experts=12)}
    assert sorted(exported) == sorted(everything)
    assert max(loads) - min(loads) <= 200  # the largest tensor


@pytest.mark.parametrize("cut", [(2, 1, 2, 4), (2, 2, 1, 2)])
def test_ranks_that_gather_a_tensor_agree_on_which_one_gets_it(cut):
    """If they did not, they would wait for each other for ever."""
    plans: dict[tuple[int, int], set[str]] = {}
    for one in stage(*cut):
        shared, _ = _shares(mappings(one, experts=12), one)
        plan = str([[mapping.names for mapping in share] for share in shared])
        plans.setdefault((one.data_rank, one.context_rank), set()).add(plan)
    assert all(len(plan) == 1 for plan in plans.values())


def exporter(monkeypatch: pytest.MonkeyPatch) -> tuple[Exporter, list[torch.nn.Parameter]]:
    """An exporter of a norm, a gated MLP, and an output layer that another stage exports; and these parameters."""
    weights = [torch.nn.Parameter(torch.full((rows, 4), float(rows))) for rows in (2, 6, 10)]
    model = SimpleNamespace(parameters=lambda: iter(weights), pre_process=False)
    kinds: list[tuple[tuple[str, ...], Kind]] = [
        (("norm",), "plain"), (("gate", "up"), "glu"), (("model.embed_tokens.weight",), "plain"),
    ]  # fmt: skip
    found = [ParameterMapping(one, names, None, kind) for one, (names, kind) in zip(weights, kinds, strict=True)]
    monkeypatch.setattr(export, "parameter_mappings", lambda *_: iter(found))
    policy = SimpleNamespace(models=[model], architecture=None, lora=None, gather=lambda: None)
    return Exporter(cast(Policy, policy), stage(1, 1, 1, 1)[0], "bfloat16"), weights


def test_an_export_is_of_its_moment_and_its_memory_is_used_again(monkeypatch: pytest.MonkeyPatch):
    exporting, weights = exporter(monkeypatch)
    first = exporting.begin()
    for weight in weights:
        weight.data.zero_()
    shard = dict(first.shard())
    assert {name: (tuple(one.shape), one.unique().tolist()) for name, one in shard.items()} == {
        "norm": ((2, 4), [2.0]), "gate": ((3, 4), [6.0]), "up": ((3, 4), [6.0]),
    }  # fmt: skip
    assert {tensor.dtype for tensor in shard.values()} == {torch.bfloat16}
    copied = first.weights.by_parameter()[weights[1]]
    assert shard["gate"].data_ptr() == copied.data_ptr(), "halves are parts of the copy"
    assert exporting.copied == 2 * 64
    first.release()
    assert dict(exporting.begin().shard())["gate"].data_ptr() == copied.data_ptr()
    assert exporting.copied == 2 * 64


def test_a_whole_export_has_what_another_user_needs_of_the_rank(monkeypatch: pytest.MonkeyPatch):
    exporting, weights = exporter(monkeypatch)
    whole = exporting.begin(whole=True)
    assert [tuple(tensor.shape) for tensor in whole.weights.tensors()] == [tuple(weight.shape) for weight in weights]
    assert [name for name, _ in whole.shard()] == ["gate", "up", "norm"]


def _rows(name: str) -> int:
    return next(rows for word, rows in _SIZES.items() if word in name)


_SIZES = {"embedding": 200, "norm": 2, "attention": 40, "expert": 30}

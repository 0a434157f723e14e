"""The layouts of fused matrices: split as they were joined, and each rank's slice is its own heads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.megatron.model.convert import Kind, join, split

HEAD_DIM = 16
SHAPE: Any = SimpleNamespace(heads=4, groups=2, head_dim=HEAD_DIM, vocab=7)  # as much of an Architecture as is read


@given(tensor_size=st.sampled_from([1, 2]), bias=st.booleans(), seed=st.integers(0, 99))
def test_fused_matrices_split_as_they_were_joined(tensor_size, bias, seed):
    generator = torch.Generator().manual_seed(seed)
    rest = () if bias else (5,)
    qkv = [torch.randn(n * HEAD_DIM, *rest, generator=generator) for n in (4, 2, 2)]
    glu = [torch.randn(160, *rest, generator=generator) for _ in range(2)]
    words = [torch.randn(SHAPE.vocab, 5, generator=generator)]
    cases: list[tuple[Kind, list[torch.Tensor]]] = [("qkv", qkv), ("glu", glu), ("vocabulary", words)]
    for kind, parts in cases:
        back = split(kind, join(kind, parts, SHAPE, tensor_size), SHAPE, tensor_size)
        assert all(torch.equal(a, b) for a, b in zip(back, parts, strict=True))


def test_each_rank_gets_its_own_heads():
    """Two ranks, four query heads in two groups: rank 0 has queries 0 and 1 with key and value 0, rank 1 the rest."""
    width = HEAD_DIM
    q, k, v = (torch.arange(n).repeat_interleave(width) + start for n, start in ((4, 0), (2, 10), (2, 20)))
    first, second = join("qkv", [q, k, v], SHAPE, 2).chunk(2)
    assert first.unique_consecutive().tolist() == [0, 1, 10, 20]
    assert second.unique_consecutive().tolist() == [2, 3, 11, 21]
    gate, up = torch.arange(4), torch.arange(4) + 10
    first, second = join("glu", [gate, up], SHAPE, 2).chunk(2)
    assert first.tolist() == [0, 1, 10, 11]
    assert second.tolist() == [2, 3, 12, 13]


def test_a_vocabulary_that_ranks_do_not_divide_gets_rows_of_zeros():
    """Seven token ids over four ranks: the last has one, and a row of padding that no exported tensor has."""
    words = torch.arange(1.0, 8.0)[:, None].expand(7, 3)
    parts = join("vocabulary", [words], SHAPE, 4).chunk(4)
    assert [part[:, 0].tolist() for part in parts] == [[1, 2], [3, 4], [5, 6], [7, 0]]
    (back,) = split("vocabulary", torch.cat(parts), SHAPE, 4)
    assert torch.equal(back, words)

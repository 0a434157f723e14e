"""Boxes: every element of a part is in one of them, in the order of memory, at the place that it has in the whole."""

from __future__ import annotations

import itertools

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.checkpointing.box import Box, ShardedTensor, boxes, cut

SHAPES = [(7,), (1, 5), (4, 3), (5, 1), (2, 3, 4), (1, 1, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_part_of_a_tensor_is_covered_in_order(shape: tuple[int, ...]):
    numbers = torch.arange(torch.Size(shape).numel())
    whole = numbers.view(shape)
    for start, end in itertools.combinations(range(len(numbers) + 1), 2):
        read = []
        for box in boxes(shape, start, end):
            inner = whole
            for axis, (offset, size) in enumerate(zip(box.offset, box.size, strict=True)):
                assert size > 0
                inner = inner.narrow(axis, offset, size)
            read += inner.flatten().tolist()
        assert read == list(range(start, end)), (start, end)


def test_a_matrix_takes_three_boxes_at_most():
    assert list(boxes((4, 10), 7, 33)) == [Box((0, 7), (1, 3)), Box((1, 0), (2, 10)), Box((3, 0), (1, 3))]
    assert list(boxes((4, 10), 13, 17)) == [Box((1, 3), (1, 4))]
    assert list(boxes((4, 10), 10, 40)) == [Box((1, 0), (3, 10))]
    assert list(boxes((4, 10), 8, 12)) == [Box((0, 8), (1, 2)), Box((1, 0), (1, 2))]
    assert list(boxes((4, 10), 8, 8)) == []
    assert max(len(list(boxes((9, 4), *part))) for part in itertools.combinations(range(37), 2)) == 3


def test_shards_are_views_at_their_place_in_the_model():
    """Layer 2 of 5, rows 4 to 8 of 8 of its weight, as tensor parallelism cuts it."""
    weight = torch.zeros(4, 3, dtype=torch.bfloat16)
    whole = ShardedTensor.from_rank_offsets("w", weight, (0, 2, 5), (1, 1, 2), replica_id=(0, 1, 3), prepend_axis_num=1)
    flat = torch.arange(2.0, 8.0)
    shards = cut(whole, 2, 8, flat)
    assert [shard.global_offset for shard in shards] == [(2, 4, 2), (2, 5, 0), (2, 6, 0)]
    assert [shard.local_shape for shard in shards] == [(1, 1, 1), (1, 1, 3), (1, 1, 2)]
    assert {shard.global_shape for shard in shards} == {(5, 8, 3)}
    assert {(shard.key, shard.dtype, shard.replica_id) for shard in shards} == {("w", torch.float32, (0, 1, 3))}
    for shard in shards:
        assert shard.data is not None
        shard.data.neg_()
    assert flat.tolist() == [-2.0, -3.0, -4.0, -5.0, -6.0, -7.0]

"""Boxes: the rectangular pieces of a tensor that a checkpoint consists of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """A piece of a tensor whose elements lie one after another in memory.

    Attributes:
        offset: index of its first element.
        size: its extent in every dimension.
    """

    offset: tuple[int, ...]
    size: tuple[int, ...]


def boxes(shape: Sequence[int], start: int, end: int) -> Iterator[Box]:
    """Cuts the elements ``start`` to ``end`` of a flattened tensor into as few boxes as it takes, in their order.

    A matrix takes three at most: the end of a row, whole rows, the beginning of a row.
    """
    if start >= end:
        return
    if len(shape) == 1:
        yield Box((start,), (end - start,))
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), end // row  # the whole rows
    if first > last:  # within one row
        yield from _in_row(shape, last, start - last * row, end - last * row)
        return
    yield from _in_row(shape, first - 1, start - (first - 1) * row, row if start < first * row else 0)
    if first < last:
        yield Box((first, *(0 for _ in shape[1:])), (last - first, *shape[1:]))
    yield from _in_row(shape, last, 0, end - last * row)


def _in_row(shape: Sequence[int], row: int, start: int, end: int) -> Iterator[Box]:
    for box in boxes(shape[1:], start, end):
        yield Box((row, *box.offset), (1, *box.size))


def cut(whole: ShardedTensor, start: int, end: int, flat: Tensor) -> list[ShardedTensor]:
    """Describes a part of a tensor as shards, one for each box.

    Args:
        whole: the tensor with its place in the model's; its data is not looked at.
        start: the part's first element, counted in the flattened tensor.
        end: the element after the part's last.
        flat: [end - start], the values; the shards are views of them.
    """
    found, taken = [], 0
    # Axes such as the number of the layer, which the model's tensor has and this rank's has not.
    outer = whole.prepend_axis_num
    for box in boxes(whole.local_shape, start, end):
        size = (1,) * outer + box.size
        count = math.prod(size)
        place = zip(whole.global_offset, (0,) * outer + box.offset, strict=True)
        found.append(
            replace(
                whole,
                data=flat[taken : taken + count].view(size),
                dtype=flat.dtype,
                local_shape=size,
                global_offset=tuple(origin + offset for origin, offset in place),
                axis_fragmentations=None,  # boxes are of different sizes
                prepend_axis_num=0,
            )
        )
        taken += count
    return found

"""The part of the model's and the optimizer's state that is one rank's own, each tensor with its place in the whole.

Data- and context-parallel ranks have equal weights and share the optimizer's state of them. Each writes that part of the
weights whose state it has, so that nothing is gathered, no rank holds or writes more than its share, and a checkpoint still
consists of pieces of the model's tensors, which ranks of any layout put together as they need them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensorFactory

from learner.megatron.checkpointing.box import cut
from learner.megatron.patches.optimizer_ranges import OwnRange

# A parameter's tensors in the checkpoint, each with the number of the parameter's elements before it: more than one if the
# checkpoint keeps its halves apart, as those of a gated MLP.
_Places = dict[torch.nn.Parameter, list[tuple[int, ShardedTensor]]]


def optimizer_shards(models: dict[str, Any], ranges: Iterable[OwnRange]) -> list[ShardedTensor]:
    """This rank's part of the fp32 weights and what else is kept of them: views, so that loading into them loads it all.

    Args:
        models: Megatron's sharded state dict of every model chunk.
        ranges: what this rank's optimizers own, with the state that is to be kept, such as Adam's moments.
    """
    places = _places(models)
    return [shard for own in ranges for shard in _state_shards(own, places)]


def own_shards(models: dict[str, Any], ranges: Iterable[OwnRange]) -> list[ShardedBase]:
    """All that this rank is to write: ``optimizer_shards``, as much of the weights, and what no optimizer updates."""
    places = _places(models)
    found: list[ShardedBase] = []
    for own in ranges:
        weights = own.parameter.detach().view(-1)
        for before, whole in places[own.parameter]:
            found += _overlap(whole, before, own, weights[own.start : own.end])
        found += _state_shards(own, places)
    return found + [shard for shard in nested_values(models) if not _is_trained(shard)]


def _state_shards(own: OwnRange, places: _Places) -> Iterator[ShardedTensor]:
    for name, values in own.state.items():
        for before, whole in places[own.parameter]:
            named = replace(whole, key=f"optimizer.{name}.{whole.key}", data=None)
            yield from _overlap(named, before, own, values)


def _overlap(whole: ShardedTensor, before: int, own: OwnRange, values: torch.Tensor) -> list[ShardedTensor]:
    """Cuts out of ``whole`` what this rank owns of it; ``values`` are those of all that it owns of the parameter."""
    end = before + torch.Size(whole.local_shape).numel()
    first, last = max(own.start, before), min(own.end, end)
    if first >= last:
        return []
    # The replica's data-parallel number is 0: every one of these ranks has a part that no other has.
    pipeline, tensor, _ = cast(tuple[int, int, int], whole.replica_id)
    alone = replace(whole, data=None, replica_id=(pipeline, tensor, 0))
    return cut(alone, first - before, last - before, values[first - own.start : last - own.start])


def _places(models: dict[str, Any]) -> _Places:
    found: _Places = {}
    for shard in filter(_is_trained, nested_values(models)):
        parts = nested_values(shard.build()) if isinstance(shard, ShardedTensorFactory) else [shard]
        parameter = cast(torch.nn.Parameter, shard.data)
        found[parameter] = [(_elements_before(part, parameter), part) for part in parts]
    return found


def _is_trained(shard: Any) -> bool:
    return isinstance(shard.data, torch.nn.Parameter) and shard.data.requires_grad


def _elements_before(part: Any, parameter: torch.nn.Parameter) -> int:
    """Number of the parameter's elements before those of ``part``, which is a view of it."""
    view: torch.Tensor = part.data
    if not view.is_contiguous() or view.untyped_storage().data_ptr() != parameter.untyped_storage().data_ptr():
        raise AssertionError(f"{part.key}: the checkpoint has it in another order than memory")
    return int(view.storage_offset() - parameter.storage_offset())

"""Adds low-rank adapters to a model and freezes everything else; finds them again, and adds them to the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from megatron.core.tensor_parallel.mappings import all_gather_last_dim_from_tensor_parallel_region
from torch import Tensor
from torch.nn import Parameter

from learner.config import LoraConfig
from learner.config.adapters import adapted_tensors
from learner.config.model_tensors import tensor_shapes
from learner.megatron.model.adapter import (
    ADAPTER,
    Adapter,
    AdapterSettings,
    Arrangement,
    ColumnAdapter,
    Matrix,
    Projection,
    RowAdapter,
)
from learner.megatron.model.architecture import Architecture
from learner.megatron.model.convert import ParameterMapping, parameter_mappings
from learner.megatron.model.packed_model import PackedModel
from learner.megatron.parallel import Ranks


def adapt(
    model: PackedModel, architecture: Architecture, lora: LoraConfig, ranks: Ranks, settings: AdapterSettings
) -> None:
    """Freezes all parameters of a model chunk, and puts an adapter beside every linear layer that ``lora`` names.

    Call it before DistributedDataParallel wraps ``model``: what is frozen gets no gradients and no optimizer's state.
    """
    shapes, wanted = tensor_shapes(architecture.config), adapted_tensors(architecture.config, lora)
    named = [name for name, _ in model.named_parameters()]
    mappings = list(parameter_mappings(model, architecture, ranks))
    model.requires_grad_(False)
    for name, mapping in zip(named, mappings, strict=True):
        if not any(weight in wanted for weight in mapping.names):
            continue
        projections = [Projection(weight, shapes[weight], weight in wanted) for weight in mapping.names]
        kind = ColumnAdapter if mapping.dim == 0 else RowAdapter
        linear = model.get_submodule(name.removesuffix(".weight"))
        adapter = kind(projections, _arrangement(mapping, architecture, ranks), ranks, settings)
        linear.add_module(ADAPTER, adapter)
        linear.register_forward_hook(adapter.add)


def adapters(models: Iterable[torch.nn.Module]) -> Iterator[tuple[Parameter, Adapter]]:
    """Yields the adapters of every linear layer of this rank that has some, with its weight, in the order of the layers."""
    for model in models:
        for module in model.modules():
            adapter = getattr(module, ADAPTER, None)
            if isinstance(adapter, Adapter):
                yield cast(Parameter, module.weight), adapter


def matrices(models: Iterable[torch.nn.Module]) -> list[Matrix]:
    """All matrices of this rank's adapters, in the order of the layers; empty without adapters."""
    return [matrix for _, adapter in adapters(models) for matrix in adapter.matrices]


def merged(weight: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns weight + delta as it is published: the weight rounded to ``dtype``, then the sum, which is made in float32."""
    return (weight.to(dtype).float() + delta).to(dtype)


def _arrangement(mapping: ParameterMapping, architecture: Architecture, ranks: Ranks) -> Arrangement:
    if mapping.kind == "qkv":
        if architecture.groups % ranks.tensor_size:
            return _SharedHeads(architecture.groups, ranks)
        return _WholeHeads(architecture.groups // ranks.tensor_size)
    return _OneAfterAnother()


class _OneAfterAnother:
    """One projection alone, or the two halves of a gated MLP."""

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


@dataclass(frozen=True)
class _WholeHeads:
    """Queries, keys and values, key/value head by head: ``count`` of them are this rank's."""

    count: int

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.unflatten(-1, (self.count, -1)) for part in parts], -1).flatten(-2)


@dataclass(frozen=True)
class _SharedHeads:
    """Queries, keys and values where there are fewer key/value heads than ranks: each has an equal part of the joint rows.

    A part may begin within a head's queries and end within its values. So the outputs of all ranks are gathered and joined,
    and each rank takes its part; what megatron gathers behind the layer is not known here.
    """

    groups: int
    ranks: Ranks

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        widths = [part.shape[-1] for part in parts]
        gathered = all_gather_last_dim_from_tensor_parallel_region(torch.cat(list(parts), -1), self.ranks.tensor_group)
        by_rank = gathered.unflatten(-1, (self.ranks.tensor_size, -1)).split(widths, -1)
        joined = _WholeHeads(self.groups).join([part.flatten(-2) for part in by_rank])
        return joined.chunk(self.ranks.tensor_size, -1)[self.ranks.tensor_rank]

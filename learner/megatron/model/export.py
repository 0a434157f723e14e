"""Exports the policy's weights as Hugging Face tensors, shared out over the ranks of each pipeline stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from learner.megatron.model.architecture import Architecture
from learner.megatron.model.convert import ParameterMapping, parameter_mappings, split
from learner.megatron.model.packed_model import PackedModel, Policy
from learner.megatron.parallel import Ranks

_TRANSFER_BYTES = 1 << 26  # unsharded tensors that one gather brings together: a small model's fit in one


def export(policy: Policy, ranks: Ranks, field: Literal["data", "main_grad"] = "data") -> list[tuple[str, Tensor]]:
    """Exports this rank's share of its stage's tensors, unsharded and under their Hugging Face names. Collective.

    The tensor-, context- and data-parallel ranks of a stage share its tensors out by size, and experts among the ranks that
    hold them. A tensor's slices are gathered on the rank that exports it and nowhere else: a rank needs memory for its share
    and, for a while, for three times the larger of 64 MiB and its largest tensor. A tied output layer is exported once, by
    the first stage.

    Args:
        policy: this rank's shard of the model.
        ranks: this process's indices and groups.
        field: what to export of each parameter: its value, or the gradient of the last step. The gradient has meaning only
            without data parallelism; with it, the reduction has scattered the gradient over the data-parallel ranks.

    Returns:
        (name, unsharded tensor) pairs, copied to host memory. Together, those of all ranks are the model.
    """
    architecture = policy.architecture
    mappings = [
        mapping
        for model in policy.models
        for mapping in parameter_mappings(model, architecture, ranks)
        if not _is_repeated(mapping, model)
    ]
    shares, experts = _shares(mappings, ranks)
    exported: list[tuple[str, Tensor]] = []
    for owner, share in enumerate(shares):
        for transfer in _transfers(share, ranks):
            values = [getattr(mapping.parameter, field).detach() for mapping in transfer]
            gathered = _gather_slices(transfer, values, owner, ranks)
            for mapping, value, full in zip(transfer, values, gathered, strict=False):  # empty except on the owner
                exported += _named(mapping, full, value, architecture, ranks)
    for mapping in experts:
        value = getattr(mapping.parameter, field).detach()
        exported += _named(mapping, value, value, architecture, ranks)
    return exported


def _named(
    mapping: ParameterMapping, full: Tensor, value: Tensor, architecture: Architecture, ranks: Ranks
) -> Iterator[tuple[str, Tensor]]:
    """Hugging Face names and host copies of the tensors in ``full``; ``value`` is this rank's own slice of it."""
    tensors = split(mapping.kind, full, architecture, mapping.slices(ranks))
    return zip(mapping.names, [_copy_to_host(tensor, value) for tensor in tensors], strict=True)


def _is_repeated(mapping: ParameterMapping, model: PackedModel) -> bool:
    """Whether this is a tied output layer on another stage than the embedding, which the first stage exports."""
    return not model.pre_process and mapping.names == ("model.embed_tokens.weight",)


def _shares(
    mappings: Sequence[ParameterMapping], ranks: Ranks
) -> tuple[list[list[ParameterMapping]], list[ParameterMapping]]:
    """Decides which rank exports what: the largest tensors first, each by the rank that has the least to export.

    Experts come before all others, as few ranks hold each of them. Every rank finds the same result, because experts are of
    the same sizes whatever their index in the expert groups.

    Returns:
        Tensors that every rank of the stage has a slice of: for each of this rank's tensor-parallel ranks, those that it
        exports. And the experts that this rank exports.
    """
    index = ranks.replica_rank * ranks.tensor_size + ranks.tensor_rank  # of this rank in its stage
    loads = [0] * (ranks.replicas * ranks.tensor_size)
    shared: list[list[ParameterMapping]] = [[] for _ in range(ranks.tensor_size)]
    experts: list[ParameterMapping] = []
    for mapping in sorted(mappings, key=lambda mapping: (not mapping.expert, -_full_bytes(mapping, ranks))):
        stride = ranks.expert_size if mapping.expert else 1
        for first in range(stride):
            least = min(range(first, len(loads), stride), key=loads.__getitem__)
            loads[least] += _full_bytes(mapping, ranks)
            if mapping.expert and least == index:
                experts.append(mapping)
            elif not mapping.expert and least // ranks.tensor_size == ranks.replica_rank:
                shared[least % ranks.tensor_size].append(mapping)
    return shared, experts


def _full_bytes(mapping: ParameterMapping, ranks: Ranks) -> int:
    """Size in bytes of the unsharded tensor."""
    return mapping.parameter.nbytes * mapping.slices(ranks)


def _transfers(share: Sequence[ParameterMapping], ranks: Ranks) -> Iterator[list[ParameterMapping]]:
    """Groups tensors that are gathered together: of one dtype, and many small ones or one large one."""
    transfer: list[ParameterMapping] = []
    for mapping in share:
        size = sum(_full_bytes(other, ranks) for other in [*transfer, mapping])
        if transfer and (size > _TRANSFER_BYTES or mapping.parameter.dtype != transfer[0].parameter.dtype):
            yield transfer
            transfer = []
        transfer.append(mapping)
    if transfer:
        yield transfer


def _gather_slices(
    mappings: Sequence[ParameterMapping], values: Sequence[Tensor], owner: int, ranks: Ranks
) -> list[Tensor]:
    """Unsharded tensors, gathered from all tensor-parallel ranks on tensor rank ``owner``; an empty list on the others."""
    split_over_ranks = [i for i, mapping in enumerate(mappings) if mapping.dim is not None and ranks.tensor_size > 1]
    flats: list[Tensor] = []
    if split_over_ranks:
        flats = _gather(torch.cat([values[i].flatten() for i in split_over_ranks]), owner, ranks)
    if ranks.tensor_rank != owner:
        return []
    full = list(values)
    slices = [flat.split([values[i].numel() for i in split_over_ranks]) for flat in flats]
    for i, own_slices in zip(split_over_ranks, zip(*slices, strict=True), strict=True):
        dim = mappings[i].dim
        assert dim is not None
        full[i] = torch.cat([part.view_as(values[i]) for part in own_slices], dim)
    return full


def _gather(flat: Tensor, owner: int, ranks: Ranks) -> list[Tensor]:
    gathered = [torch.empty_like(flat) for _ in range(ranks.tensor_size)] if ranks.tensor_rank == owner else None
    dist.gather(flat, gathered, group_dst=owner, group=ranks.tensor_group)
    return gathered or []


def _copy_to_host(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A contiguous copy in host memory, never a view of the parameter: training goes on while it is written to disk."""
    shared = tensor.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
    return tensor.to("cpu", copy=shared).contiguous()

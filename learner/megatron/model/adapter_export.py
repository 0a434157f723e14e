"""Exports adapters: their whole matrices on rank 0, or added to the weights of the model that they adapt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from learner.config.adapters import matrix_names
from learner.megatron.model.adapter import Matrix
from learner.megatron.parallel import Ranks
from runtime.version_format.adapter import merged
from runtime.version_format.wide_tensors import dtype_of

_Copies = Mapping[Parameter, Tensor]


class Assembly(Protocol):
    """Makes the tensors that a rank exports of copies of its parameters."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The parameters of this rank that it needs copies of."""
        ...

    def tensors(self, copies: _Copies) -> list[tuple[str, Tensor]]:
        """(name, whole tensor) pairs that this rank exports. Collective among tensor-parallel ranks, or among all."""
        ...


class AdapterAssembly:
    """Makes whole matrices of the copies of their parts. Making one is collective.

    Args:
        matrices: this rank's parts.
        ranks: this process's indices and groups.
        tensor_group: a group of the tensor-parallel ranks for the exporting thread; None if there is one only.
        leaders: such a group of the first rank of each pipeline stage; None if there is one stage only.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        ranks: Ranks,
        tensor_group: dist.ProcessGroup | None,
        leaders: dist.ProcessGroup | None,
    ) -> None:
        self._matrices = list(matrices)
        self._ranks = ranks
        self._group = tensor_group
        self._leaders = leaders

    @property
    def parameters(self) -> list[Parameter]:
        """This rank's parts."""
        return [matrix.parameter for matrix in self._matrices]

    def of_stage(self, copies: _Copies) -> dict[str, Tensor]:
        """Returns all matrices of this rank's layers, whole. Collective among tensor-parallel ranks."""
        cut = [matrix for matrix in self._matrices if matrix.dim is not None and self._group is not None]
        found = {matrix.name: copies[matrix.parameter] for matrix in self._matrices}
        if not cut:
            return found
        own = torch.cat([copies[matrix.parameter].flatten() for matrix in cut])
        gathered = own.new_empty(self._ranks.tensor_size, len(own))
        # As bytes, which any backend sends.
        dist.all_gather(list(gathered.view(torch.uint8).unbind()), own.view(torch.uint8), group=self._group)
        by_rank = [part.split([copies[matrix.parameter].numel() for matrix in cut]) for part in gathered]
        for matrix, parts in zip(cut, zip(*by_rank, strict=True), strict=True):
            assert matrix.dim is not None
            found[matrix.name] = torch.cat([part.view(matrix.parameter.shape) for part in parts], matrix.dim)
        return found

    def tensors(self, copies: _Copies) -> list[tuple[str, Tensor]]:
        """All matrices of all layers, whole, on rank 0, and nothing elsewhere. Collective."""
        own = list(self.of_stage(copies).items())
        if self._ranks.tensor_rank or self._ranks.replica_rank:
            return []
        return own if self._leaders is None else self._on_rank_zero(own, self._leaders)

    def _on_rank_zero(self, own: list[tuple[str, Tensor]], group: dist.ProcessGroup) -> list[tuple[str, Tensor]]:
        """Sends the matrices of a stage to rank 0, which returns those of all stages."""
        described = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in own]
        stages: list[list[tuple[str, tuple[int, ...], torch.dtype]]] = [[] for _ in range(dist.get_world_size(group))]
        dist.gather_object(described, stages if self._ranks.rank == 0 else None, dst=0, group=group)
        if self._ranks.rank:
            dist.send(torch.cat([tensor.flatten() for _, tensor in own]).view(torch.uint8), 0, group=group)
            return []
        found = own
        for source, stage in zip(dist.get_process_group_ranks(group)[1:], stages[1:], strict=True):
            sizes = [torch.Size(shape).numel() for _, shape, _ in stage]
            flat = torch.empty(sum(sizes), dtype=stage[0][2])
            dist.recv(flat.view(torch.uint8), source, group=group)
            found += [(name, part.view(shape)) for (name, shape, _), part in zip(stage, flat.split(sizes), strict=True)]
        return found


class MergedAssembly:
    """Makes the tensors of a model of copies of its adapters: W + scaling * B A, computed in float32, then rounded.

    What is adapted never changes, so it is brought together once and kept: in host memory, as much as this rank exports.

    Args:
        base: makes the tensors of the model without its adapters.
        adapters: makes whole matrices.
        scaling: factor of B A.
        dtype: data type of what is exported, "float32" or "bfloat16", but of tensors that stay float32.
    """

    def __init__(self, base: Assembly, adapters: AdapterAssembly, scaling: float, dtype: str) -> None:
        # Tensors of their own: the parameters may have other values for a while, under which tokens are scored.
        self._frozen = {parameter: parameter.data for parameter in base.parameters}
        self._assembly = base
        self._adapters = adapters
        self._scaling = scaling
        self._dtype = dtype
        self._base: list[tuple[str, Tensor]] | None = None

    @property
    def parameters(self) -> list[Parameter]:
        """This rank's parts of the adapters."""
        return self._adapters.parameters

    def tensors(self, copies: _Copies) -> list[tuple[str, Tensor]]:
        """(name, whole tensor) pairs that this rank exports. Collective among tensor-parallel ranks."""
        matrices = self._adapters.of_stage(copies)
        if self._base is None:
            on_host = {parameter: tensor.cpu() for parameter, tensor in self._frozen.items()}
            self._base = self._assembly.tensors(on_host)
        return [(name, self._merged(name, weight, matrices)) for name, weight in self._base]

    def _merged(self, name: str, weight: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
        first, second = (matrices.get(matrix) for matrix in matrix_names(name))
        dtype: torch.dtype = getattr(torch, dtype_of(name, self._dtype))
        if first is None or second is None or not second.any():  # nothing added keeps the sign of a zero
            return weight.to(dtype)
        # As a worker does that has the adapters alone, to the bit: runtime.version_format has the order of the operations.
        own, down, up = (tensor.float().numpy() for tensor in (weight.to(dtype), first, second))
        return torch.from_numpy(merged(own, down, up, self._scaling)).to(dtype)

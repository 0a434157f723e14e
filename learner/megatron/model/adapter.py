"""Low-rank adapters beside one of megatron's linear layers, tensor- and sequence-parallel as the layer is.

A linear layer may hold several projections of Hugging Face in one matrix, in an order of its own. Each projection has an
adapter of its own, A [rank, in] and B [out, rank], whose outputs are put in that order and added to the layer's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    set_tensor_model_parallel_attributes,
)
from torch import Tensor
from torch.nn import Parameter

from learner.config.adapters import matrix_names
from learner.megatron.model.rebuilt import rebuilding
from learner.megatron.parallel import Ranks

ADAPTER = "lora"  # the name of the adapters within their linear layer


@dataclass(frozen=True)
class Matrix:
    """A rank's part of an A or a B.

    Attributes:
        name: the whole matrix's, as peft has it.
        parameter: this rank's part of it.
        dim: dimension that tensor-parallel ranks split it along; None if each has all of it.
    """

    name: str
    parameter: Parameter
    dim: int | None


@dataclass(frozen=True)
class Projection:
    """A projection that a linear layer holds.

    Attributes:
        weight: name of its Hugging Face tensor.
        shape: of that tensor, [out, in].
        adapted: whether it has an adapter.
    """

    weight: str
    shape: tuple[int, ...]
    adapted: bool


class Arrangement(Protocol):
    """The order in which a linear layer has the outputs of its projections."""

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins this rank's outputs [..., width] of every projection to this rank's part of the layer's output."""
        ...


class Adapter(torch.nn.Module):
    """The adapters of the projections that one linear layer holds; ``forward`` returns what is added to its output.

    Args:
        projections: all that the layer holds, those without an adapter too.
        arrangement: the order of their outputs.
        ranks: the layout.
        like: settings that all adapters of a model share.
    """

    def __init__(
        self, projections: Sequence[Projection], arrangement: Arrangement, ranks: Ranks, like: AdapterSettings
    ) -> None:
        super().__init__()
        self._arrangement = arrangement
        self._ranks = ranks
        self._like = like
        self._projections = list(projections)
        self.matrices: list[Matrix] = []
        for projection in projections:
            if projection.adapted:
                self._add(projection)

    @abstractmethod
    def dims(self) -> tuple[int | None, int | None]:
        """Dimensions that tensor-parallel ranks split A and B along; None if each rank has the whole."""

    @abstractmethod
    def delta(self) -> Tensor:
        """Returns what this rank's part of the layer's weight has to have added for the same output: float32, [out, in].

        Collective among tensor-parallel ranks.
        """

    def add(self, _: torch.nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """Adds the adapters' output to the linear layer's, as a hook behind its ``forward``."""
        return output[0] + self(inputs[0]), output[1]

    def _add(self, projection: Projection) -> None:
        """Makes the two matrices of a projection: A drawn as peft draws it, the same under every layout, and B zero."""
        name = projection.weight.split(".")[-2]
        outputs, inputs = projection.shape
        dims, names, like = self.dims(), matrix_names(projection.weight), self._like
        first, second = _uniform(like.rank, inputs, f"{like.seed}/{names[0]}"), torch.zeros(outputs, like.rank)
        for matrix, whole, dim, letter in zip(names, (first, second), dims, "AB", strict=True):
            own = whole if dim is None else whole.chunk(self._ranks.tensor_size, dim)[self._ranks.tensor_rank]
            parameter = Parameter(own.to(self._ranks.device, like.dtype, copy=True).contiguous())
            if dim is not None and self._ranks.tensor_size > 1:
                set_tensor_model_parallel_attributes(parameter, True, dim, 1)
            elif self._ranks.sequence:
                # Each tensor-parallel rank sees a slice of the tokens: megatron adds their gradients up, as those of norms.
                parameter.sequence_parallel = True  # type: ignore[attr-defined]
            self.register_parameter(f"{name}_{letter}", parameter)
            self.matrices.append(Matrix(matrix, parameter, dim))

    @property
    def _first(self) -> list[Tensor]:
        """A of every projection that has an adapter."""
        return [matrix.parameter for matrix in self.matrices[::2]]

    @property
    def _second(self) -> list[Tensor]:
        """B of every projection that has an adapter."""
        return [matrix.parameter for matrix in self.matrices[1::2]]

    def _scaled(self, x: Tensor) -> Tensor:
        """A x of all projections, side by side and scaled: [..., rank * projections]."""
        first = self._first
        with rebuilding(x):  # the linear layer keeps nothing of its input, as its weight is frozen: A alone does
            return F.linear(x, first[0] if len(first) == 1 else torch.cat(first)) * self._like.scaling


@dataclass(frozen=True)
class AdapterSettings:
    """What all adapters of a model share.

    Attributes:
        rank: of A and B.
        scaling: factor of B A.
        dtype: of A and B.
        seed: of the first A.
    """

    rank: int
    scaling: float
    dtype: torch.dtype
    seed: int


class ColumnAdapter(Adapter):
    """Adapters beside a linear layer that is split along its output: every rank has A, and the rows of B that it needs.

    Under sequence parallelism a rank multiplies its slice of the tokens by A; the products, which are small, are gathered.
    """

    def dims(self) -> tuple[int | None, int | None]:
        """B is split along its rows."""
        return None, 0

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is added to the layer's output.

        Args:
            x: [n, 1, in], the input of the layer; [n / tp, 1, in] under sequence parallelism.

        Returns:
            [n, 1, out / tp].
        """
        hidden = self._scaled(x)
        if self._ranks.sequence:
            hidden = gather_from_sequence_parallel_region(hidden, group=self._ranks.tensor_group)
        elif self._ranks.tensor_size > 1:
            # Its backward pass adds up the ranks' gradients, so that each has the whole gradient of A and of the input.
            hidden = copy_to_tensor_model_parallel_region(hidden, group=self._ranks.tensor_group)
        hidden = hidden.split(self._like.rank, -1)
        return self._joined([F.linear(part, second) for part, second in zip(hidden, self._second, strict=True)])

    @torch.no_grad()
    def delta(self) -> Tensor:
        """Returns what is added to this rank's rows of the layer's weight: float32, [out / tp, in]. Collective."""
        pairs = zip(self._second, self._first, strict=True)
        products = [(second.float() @ first.float()).t() * self._like.scaling for second, first in pairs]
        return self._joined(products).t()

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Outputs of all projections in the layer's order; those without an adapter are zero."""
        known, found = iter(parts), []
        for projection in self._projections:
            width = projection.shape[0] // self._ranks.tensor_size
            found.append(next(known) if projection.adapted else parts[0].new_zeros(*parts[0].shape[:-1], width))
        return self._arrangement.join(found)


class RowAdapter(Adapter):
    """The adapter beside a linear layer that is split along its input: ranks have the columns of A that they need, and B."""

    def dims(self) -> tuple[int | None, int | None]:
        """A is split along its columns."""
        return 1, None

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is added to the layer's output.

        Args:
            x: [n, 1, in / tp], the input of the layer.

        Returns:
            [n, 1, out]; [n / tp, 1, out] under sequence parallelism.
        """
        hidden = self._scaled(x)
        if self._ranks.sequence:
            hidden = reduce_scatter_to_sequence_parallel_region(hidden, group=self._ranks.tensor_group)
        elif self._ranks.tensor_size > 1:
            hidden = reduce_from_tensor_model_parallel_region(hidden, group=self._ranks.tensor_group)
        return F.linear(cast(Tensor, hidden), self._second[0])

    @torch.no_grad()
    def delta(self) -> Tensor:
        """Returns what is added to this rank's columns of the layer's weight: float32, [out, in / tp]."""
        return self._second[0].float() @ self._first[0].float() * self._like.scaling


def _uniform(rows: int, columns: int, seed: str) -> Tensor:
    """Draws an A as peft does: kaiming_uniform_ with a = sqrt(5), which is uniform within 1 / sqrt(columns)."""
    generator = torch.Generator().manual_seed(int.from_bytes(sha256(seed.encode()).digest()[:7], "little"))
    bound = 1 / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

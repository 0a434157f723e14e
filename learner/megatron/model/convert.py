"""Converts Hugging Face tensors to this rank's parameters and back; a round trip is bit-exact.

megatron keeps query, key and value in one matrix, key/value group by group, and the two halves of the gated MLP in one
matrix, tensor-parallel rank by rank. The embedding and the output layer have rows of padding where tensor parallelism does
not divide the vocabulary; everything else differs in name only. An expert is whole on each rank that holds it, and its name
there has its index among the rank's own experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.config.architectures import vocabulary_rows
from learner.config.layer_parameters import EXPERT_PARAMETERS, EXPERT_PREFIX, LAYER_PARAMETERS, Kind
from learner.megatron.model.adapter import ADAPTER
from learner.megatron.model.architecture import Architecture
from learner.megatron.model.packed_model import PackedModel
from learner.megatron.parallel import Ranks

_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(.+)")


@dataclass(frozen=True)
class ParameterMapping:
    """One parameter of this rank, and the Hugging Face tensors that it is a slice of.

    Attributes:
        names: the Hugging Face tensors that are joined to the parameter.
        dim: dimension that tensor-parallel ranks split it along; None if every rank that has it holds all of it.
        kind: how the tensors are joined.
        expert: whether it belongs to an expert; then only ranks with the same index in their expert group hold it.
    """

    parameter: torch.nn.Parameter
    names: tuple[str, ...]
    dim: int | None
    kind: Kind
    expert: bool = False

    def slices(self, ranks: Ranks) -> int:
        """Number of ranks that the parameter is split over."""
        return 1 if self.dim is None else ranks.tensor_size


class WeightSource(Protocol):
    """A place that Hugging Face tensors are read from, such as learner.megatron.model.hf_weights.Weights."""

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Reads the tensor ``name`` into host memory, in any dtype; raises if it is missing or of another shape."""
        ...


def load_weights(model: PackedModel, architecture: Architecture, weights: WeightSource, ranks: Ranks) -> None:
    """Copies weights into this rank's parameters of one model chunk. Raises what ``weights`` raises."""
    for parameter, own in local_weights([model], architecture, weights, ranks):
        with torch.no_grad():
            parameter.copy_(own)


def local_weights(
    models: Sequence[PackedModel], architecture: Architecture, source: WeightSource, ranks: Ranks
) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """Yields each parameter of this rank, in order, with its values from ``source``, possibly a view of a larger tensor."""
    for mapping in (mapping for model in models for mapping in parameter_mappings(model, architecture, ranks)):
        shapes = _shapes(mapping, architecture, ranks)
        tensors = [source.read(name, shape) for name, shape in zip(mapping.names, shapes, strict=True)]
        full = join(mapping.kind, tensors, architecture, mapping.slices(ranks))
        own = full if mapping.dim is None else full.chunk(ranks.tensor_size, mapping.dim)[ranks.tensor_rank]
        yield mapping.parameter, own


def parameter_mappings(model: PackedModel, architecture: Architecture, ranks: Ranks) -> Iterator[ParameterMapping]:
    """Yields the mapping of every parameter of a model chunk but those of adapters, in the order of the parameters."""
    output_layer = "model.embed_tokens.weight" if architecture.tied else "lm_head.weight"
    outside_layers: dict[str, tuple[str, int | None, Kind]] = {
        "embedding.word_embeddings.weight": ("model.embed_tokens.weight", 0, "vocabulary"),
        "output_layer.weight": (output_layer, 0, "vocabulary"),
        "decoder.final_layernorm.weight": ("model.norm.weight", None, "plain"),
    }
    for name, parameter in model.named_parameters():
        if f".{ADAPTER}." in name:
            continue
        if name in outside_layers:
            hf_name, dim, kind = outside_layers[name]
            yield ParameterMapping(parameter, (hf_name,), dim, kind)
            continue
        _, _, local, rest = name.split(".", 3)  # decoder.layers.<index in this model chunk>.<rest>
        layer = cast(int, model.decoder.layers[int(local)].layer_number) - 1  # over the whole model, from 0
        expert = _EXPERT.fullmatch(rest)
        if expert is None:
            found = LAYER_PARAMETERS[rest]
            names = tuple(f"model.layers.{layer}.{hf_name}" for hf_name in found.tensors)
            yield ParameterMapping(parameter, names, found.dim, found.kind)
        else:
            prefix = f"model.layers.{layer}.{EXPERT_PREFIX}{_expert_number(expert[1], architecture, ranks)}."
            found = EXPERT_PARAMETERS[expert[2]]
            names = tuple(prefix + hf_name for hf_name in found.tensors)
            yield ParameterMapping(parameter, names, found.dim, found.kind, expert=True)


def _expert_number(local: str, architecture: Architecture, ranks: Ranks) -> int:
    """Index of an expert over the whole layer, from its index among this rank's."""
    assert architecture.mixture is not None
    return ranks.expert_rank * (architecture.mixture.experts // ranks.expert_size) + int(local)


def _shapes(mapping: ParameterMapping, architecture: Architecture, ranks: Ranks) -> list[tuple[int, ...]]:
    """Shapes of the Hugging Face tensors of a parameter."""
    full = list(mapping.parameter.shape)
    if mapping.dim is not None:
        full[mapping.dim] *= ranks.tensor_size
    if mapping.kind == "plain":
        return [tuple(full)]
    if mapping.kind == "vocabulary":
        return [(architecture.vocab, *full[1:])]
    if mapping.kind == "glu":
        return [(full[0] // 2, *full[1:])] * 2
    rows = (architecture.heads, architecture.groups, architecture.groups)
    return [(count * architecture.head_dim, *full[1:]) for count in rows]


def join(kind: Kind, tensors: Sequence[Tensor], architecture: Architecture, slices: int) -> Tensor:
    """Joins Hugging Face tensors to the unsharded megatron tensor, whose r-th of ``slices`` chunks is rank r's."""
    if kind == "plain":
        return tensors[0]
    if kind == "vocabulary":
        missing = vocabulary_rows(architecture.vocab, slices) - len(tensors[0])
        return F.pad(tensors[0], (0, 0, 0, missing)) if missing else tensors[0]
    if kind == "glu":
        chunked = (tensor.chunk(slices) for tensor in tensors)
        return torch.cat([half for pair in zip(*chunked, strict=True) for half in pair])
    rest = tensors[0].shape[1:]
    return torch.cat([tensor.reshape(architecture.groups, -1, *rest) for tensor in tensors], 1).reshape(-1, *rest)


def split(kind: Kind, full: Tensor, architecture: Architecture, slices: int) -> list[Tensor]:
    """Splits an unsharded megatron tensor into its Hugging Face tensors, where possible views: the inverse of ``join``."""
    if kind == "plain":
        return [full]
    if kind == "vocabulary":
        return [full[: architecture.vocab]]
    if kind == "glu":
        chunks = full.chunk(2 * slices)
        return list(chunks) if slices == 1 else [torch.cat(chunks[0::2]), torch.cat(chunks[1::2])]
    rest = full.shape[1:]
    width = architecture.head_dim
    queries = architecture.heads // architecture.groups * width
    tensors = full.reshape(architecture.groups, queries + 2 * width, *rest).split([queries, width, width], 1)
    return [tensor.reshape(-1, *rest) for tensor in tensors]

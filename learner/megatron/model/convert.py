"""Hugging Face tensors to this rank's parameters and back. Both directions walk the same plan; a round trip is bit-exact.

megatron keeps query, key and value in one matrix, key/value group by group, and the two halves of the gated MLP in one,
rank by rank; the rest differs in name only. Experts are whole on the ranks that hold them, and known there by their place
among those of the rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from learner.megatron.model.architecture import Architecture
from learner.megatron.parallel import Ranks

if TYPE_CHECKING:
    from learner.megatron.model.hf_weights import Weights
    from learner.megatron.model.packed_model import PackedModel, Policy

Kind = Literal["plain", "qkv", "glu"]
_BUCKET = 1 << 26  # bytes of whole tensors that one transfer brings together: a small model's go in one

_LAYER: dict[str, tuple[tuple[str, ...], int | None, Kind]] = {
    "input_layernorm.weight": (("input_layernorm.weight",), None, "plain"),
    "pre_mlp_layernorm.weight": (("post_attention_layernorm.weight",), None, "plain"),
    "self_attention.linear_qkv.weight": (tuple(f"self_attn.{x}_proj.weight" for x in "qkv"), 0, "qkv"),
    "self_attention.linear_qkv.bias": (tuple(f"self_attn.{x}_proj.bias" for x in "qkv"), 0, "qkv"),
    "self_attention.linear_proj.weight": (("self_attn.o_proj.weight",), 1, "plain"),
    "self_attention.q_layernorm.weight": (("self_attn.q_norm.weight",), None, "plain"),
    "self_attention.k_layernorm.weight": (("self_attn.k_norm.weight",), None, "plain"),
    "mlp.linear_fc1.weight": (("mlp.gate_proj.weight", "mlp.up_proj.weight"), 0, "glu"),
    "mlp.linear_fc2.weight": (("mlp.down_proj.weight",), 1, "plain"),
    "mlp.router.weight": (("mlp.gate.weight",), None, "plain"),
}
_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(.+)")
_OF_EXPERT: dict[str, tuple[tuple[str, ...], Kind]] = {
    "linear_fc1.weight": (("gate_proj.weight", "up_proj.weight"), "glu"),
    "linear_fc2.weight": (("down_proj.weight",), "plain"),
}


@dataclass(frozen=True)
class Piece:
    """One parameter of this rank and the Hugging Face tensors it is cut from."""

    parameter: torch.nn.Parameter
    names: tuple[str, ...]
    dim: int | None  # along which tensor-parallel ranks cut it; None: every rank that has it holds it whole
    kind: Kind
    expert: bool = False  # only the ranks with the same place in their expert group have it


class WeightSource(Protocol):
    """Where Hugging Face tensors come from."""

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor ``name``, in host memory, any dtype."""
        ...


def load_weights(model: PackedModel, architecture: Architecture, weights: Weights, ranks: Ranks) -> None:
    """Fills this rank's parameters. Raises ModelError: a tensor is missing or has another shape."""
    for parameter, mine in local_weights([model], architecture, weights, ranks):
        with torch.no_grad():
            parameter.copy_(mine)


def local_weights(
    models: Sequence[PackedModel], architecture: Architecture, source: WeightSource, ranks: Ranks
) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """Each parameter of this rank, in order, and what ``source`` has for it; possibly a view of a larger tensor."""
    for piece in (piece for model in models for piece in _pieces(model, architecture, ranks)):
        shapes = _shapes(piece, architecture, ranks)
        parts = [source.read(name, shape) for name, shape in zip(piece.names, shapes, strict=True)]
        whole = _join(piece.kind, parts, architecture, _slices(piece, ranks))
        yield (
            piece.parameter,
            whole if piece.dim is None else whole.chunk(ranks.tensor_size, piece.dim)[ranks.tensor_rank],
        )


def export(policy: Policy, ranks: Ranks, field: Literal["data", "main_grad"] = "data") -> list[tuple[str, Tensor]]:
    """This rank's share of its stage's tensors, whole and under their Hugging Face names, as a snapshot in host memory.
    Collective.

    The ranks of a stage, tensor-, context- and data-parallel ones alike, share its tensors out by size; experts among those
    that hold them. One tensor's slices come together on the rank that exports it and nowhere else: a rank holds its share
    and, in passing, three times the larger of 64 MiB and its largest tensor. A tied output layer is exported once, by the
    first stage.

    Args:
        field: what to export of each parameter: its value, or the gradient of the last step (before the reduction over
            data-parallel ranks has scattered it: only meaningful without data parallelism).

    Returns:
        (name, full tensor) pairs; together, those of all ranks are the model.
    """
    architecture = policy.architecture
    pieces = [
        piece for model in policy.models for piece in _pieces(model, architecture, ranks) if not _repeated(piece, model)
    ]
    shares, experts = _shares(pieces, ranks)
    found: list[tuple[str, Tensor]] = []
    for owner, share in enumerate(shares):
        for bucket in _buckets(share, ranks):
            values = [getattr(piece.parameter, field).detach() for piece in bucket]
            wholes = _whole(bucket, values, owner, ranks)
            for piece, value, whole in zip(bucket, values, wholes, strict=False):  # empty except on the owner
                found += _named(piece, whole, value, architecture, ranks)
    for piece in experts:
        value = getattr(piece.parameter, field).detach()
        found += _named(piece, value, value, architecture, ranks)
    return found


def _named(
    piece: Piece, whole: Tensor, value: Tensor, architecture: Architecture, ranks: Ranks
) -> Iterator[tuple[str, Tensor]]:
    parts = _split(piece.kind, whole, architecture, _slices(piece, ranks))
    return zip(piece.names, [_snapshot(part, value) for part in parts], strict=True)


def _repeated(piece: Piece, model: PackedModel) -> bool:
    """A tied output layer away from the embedding: the first stage exports it."""
    return not model.pre_process and piece.names == ("model.embed_tokens.weight",)


def _pieces(model: PackedModel, architecture: Architecture, ranks: Ranks) -> Iterator[Piece]:
    head = "model.embed_tokens.weight" if architecture.tied else "lm_head.weight"
    outside: dict[str, tuple[str, int | None]] = {
        "embedding.word_embeddings.weight": ("model.embed_tokens.weight", 0),
        "output_layer.weight": (head, 0),
        "decoder.final_layernorm.weight": ("model.norm.weight", None),
    }
    for name, parameter in model.named_parameters():
        if name in outside:
            hf_name, dim = outside[name]
            yield Piece(parameter, (hf_name,), dim, "plain")
        else:
            _, _, local, rest = name.split(".", 3)  # decoder.layers.<index in this piece>.<rest>
            layer = cast(int, model.decoder.layers[int(local)].layer_number) - 1  # over the whole model, from 0
            expert = _EXPERT.fullmatch(rest)
            if expert is None:
                names, dim, kind = _LAYER[rest]
                yield Piece(parameter, tuple(f"model.layers.{layer}.{hf_name}" for hf_name in names), dim, kind)
            else:
                prefix = f"model.layers.{layer}.mlp.experts.{_number(expert[1], architecture, ranks)}."
                names, kind = _OF_EXPERT[expert[2]]
                yield Piece(parameter, tuple(prefix + hf_name for hf_name in names), None, kind, expert=True)


def _number(local: str, architecture: Architecture, ranks: Ranks) -> int:
    """Of an expert, over the whole layer."""
    assert architecture.mixture is not None
    return ranks.expert_rank * (architecture.mixture.experts // ranks.expert_size) + int(local)


def _slices(piece: Piece, ranks: Ranks) -> int:
    """Ranks that a piece is cut over."""
    return 1 if piece.dim is None else ranks.tensor_size


def _shapes(piece: Piece, architecture: Architecture, ranks: Ranks) -> list[tuple[int, ...]]:
    whole = list(piece.parameter.shape)
    if piece.dim is not None:
        whole[piece.dim] *= ranks.tensor_size
    if piece.kind == "plain":
        return [tuple(whole)]
    if piece.kind == "glu":
        return [(whole[0] // 2, *whole[1:])] * 2
    rows = (architecture.heads, architecture.groups, architecture.groups)
    return [(count * architecture.head_dim, *whole[1:]) for count in rows]


def _join(kind: Kind, parts: Sequence[Tensor], architecture: Architecture, slices: int) -> Tensor:
    """Hugging Face tensors -> the whole megatron tensor, laid out so that its r-th chunk is rank r's."""
    if kind == "plain":
        return parts[0]
    if kind == "glu":
        return torch.cat([half for pair in zip(*(part.chunk(slices) for part in parts), strict=True) for half in pair])
    rest = parts[0].shape[1:]
    return torch.cat([part.reshape(architecture.groups, -1, *rest) for part in parts], 1).reshape(-1, *rest)


def _split(kind: Kind, whole: Tensor, architecture: Architecture, slices: int) -> list[Tensor]:
    """The inverse of _join."""
    if kind == "plain":
        return [whole]
    if kind == "glu":
        chunks = whole.chunk(2 * slices)
        return [torch.cat(chunks[0::2]), torch.cat(chunks[1::2])]
    rest = whole.shape[1:]
    width = architecture.head_dim
    queries = architecture.heads // architecture.groups * width
    parts = whole.reshape(architecture.groups, queries + 2 * width, *rest).split([queries, width, width], 1)
    return [part.reshape(-1, *rest) for part in parts]


def _shares(pieces: Sequence[Piece], ranks: Ranks) -> tuple[list[list[Piece]], list[Piece]]:
    """What each of this rank's tensor-parallel ranks exports of the pieces that every rank of the stage has a part of; and
    what this rank exports of its own experts.

    Largest first, to the one that has least; experts before all others, as few ranks have them. Every rank finds the same:
    the experts of one place in the expert groups are like those of another.
    """
    place = ranks.replica_rank * ranks.tensor_size + ranks.tensor_rank  # in the stage
    loads = [0] * (ranks.replicas * ranks.tensor_size)
    shared: list[list[Piece]] = [[] for _ in range(ranks.tensor_size)]
    experts: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (not piece.expert, -_bytes(piece, ranks))):
        stride = ranks.expert_size if piece.expert else 1
        for first in range(stride):
            least = min(range(first, len(loads), stride), key=loads.__getitem__)
            loads[least] += _bytes(piece, ranks)
            if piece.expert and least == place:
                experts.append(piece)
            elif not piece.expert and least // ranks.tensor_size == ranks.replica_rank:
                shared[least % ranks.tensor_size].append(piece)
    return shared, experts


def _bytes(piece: Piece, ranks: Ranks) -> int:
    """Of the whole tensor."""
    return piece.parameter.nbytes * _slices(piece, ranks)


def _buckets(share: Sequence[Piece], ranks: Ranks) -> Iterator[list[Piece]]:
    """Pieces that are brought together in one transfer: of one dtype, and many small ones or one large one."""
    bucket: list[Piece] = []
    for piece in share:
        size = sum(_bytes(other, ranks) for other in [*bucket, piece])
        if bucket and (size > _BUCKET or piece.parameter.dtype != bucket[0].parameter.dtype):
            yield bucket
            bucket = []
        bucket.append(piece)
    if bucket:
        yield bucket


def _whole(pieces: Sequence[Piece], values: Sequence[Tensor], owner: int, ranks: Ranks) -> list[Tensor]:
    """The pieces put together from all tensor-parallel ranks, on tensor rank ``owner``; an empty list on the others."""
    cut = [i for i, piece in enumerate(pieces) if piece.dim is not None] if ranks.tensor_size > 1 else []
    flats: list[Tensor] = []
    if cut:
        flats = _gather(torch.cat([values[i].flatten() for i in cut]), owner, ranks)
    if ranks.tensor_rank != owner:
        return []
    wholes = list(values)
    slices = [flat.split([values[i].numel() for i in cut]) for flat in flats]
    for i, parts in zip(cut, zip(*slices, strict=True), strict=True):
        dim = pieces[i].dim
        assert dim is not None
        wholes[i] = torch.cat([part.view_as(values[i]) for part in parts], dim)
    return wholes


def _gather(flat: Tensor, owner: int, ranks: Ranks) -> list[Tensor]:
    everyone = [torch.empty_like(flat) for _ in range(ranks.tensor_size)] if ranks.tensor_rank == owner else None
    dist.gather(flat, everyone, group_dst=owner, group=ranks.tensor_group)
    return everyone or []


def _snapshot(tensor: Tensor, parameter: Tensor) -> Tensor:
    """In host memory, and no view of the parameter: training goes on while it is written."""
    shared = tensor.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
    return tensor.to("cpu", copy=shared).contiguous()

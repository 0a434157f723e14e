"""The architectures that can be trained, read from a Hugging Face ``config.json``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.config import ParallelConfig
from runtime.errors import MISCONFIGURED, LeewayError

_SUPPORTED = ("llama", "qwen2", "qwen3", "qwen3_moe")


class ModelError(LeewayError):
    """A model directory that cannot be trained as configured: names the path, the field, its value and what to do."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class Mixture:
    """Experts in place of the gated MLP: a softmax over all of them says which few a token goes to. None is ever dropped.

    No auxiliary loss balances them (router_aux_loss_coef is not read): it is a product of means over a micro-batch, so that
    the same batch would have another gradient for every way of cutting it.
    """

    experts: int
    chosen: int  # experts of a token
    ffn: int  # of one expert
    normalised: bool  # the weights of a token's experts sum to 1; otherwise they are what the softmax gives
    layers: tuple[bool, ...]  # which layers have one; the others are dense


@dataclass(frozen=True)
class Architecture:
    """A decoder: grouped-query attention, rotary positions, RMSNorm, gated SiLU, dense or a mixture of experts."""

    path: Path
    model_type: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int  # key/value heads
    head_dim: int
    vocab: int
    norm_eps: float
    max_positions: int
    tied: bool  # the output layer is the embedding
    rope: dict[str, Any]  # rope_theta, rope_type and what that type needs
    mixture: Mixture | None

    @classmethod
    def read(cls, directory: Path) -> Architecture:
        """Raises ModelError: no such directory, no or a malformed config.json, or an architecture that is not supported."""
        path = directory / "config.json"
        values = _read_json(path)
        model_type = _field(path, values, "model_type")
        if model_type not in _SUPPORTED:
            raise ModelError(
                f"{path}: model_type = {model_type!r} is not supported; supported: {', '.join(_SUPPORTED)}"
            )
        _refuse_variants(path, values)
        heads = _count(path, values, "num_attention_heads")
        hidden = _count(path, values, "hidden_size")
        groups = values.get("num_key_value_heads") or heads
        if heads % groups:
            raise ModelError(f"{path}: num_attention_heads = {heads} is no multiple of num_key_value_heads = {groups}")
        return cls(
            path=path,
            model_type=model_type,
            layers=_count(path, values, "num_hidden_layers"),
            hidden=hidden,
            ffn=_count(path, values, "intermediate_size"),
            heads=heads,
            groups=groups,
            head_dim=values.get("head_dim") or hidden // heads,
            vocab=_count(path, values, "vocab_size"),
            norm_eps=float(_field(path, values, "rms_norm_eps")),
            max_positions=_count(path, values, "max_position_embeddings"),
            tied=bool(values.get("tie_word_embeddings", False)),
            rope=_rope(path, values),
            mixture=_mixture(path, values) if model_type == "qwen3_moe" else None,
        )

    @property
    def qkv_bias(self) -> bool:
        return self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.model_type in ("qwen3", "qwen3_moe")

    def has_experts(self, layer: int) -> bool:
        """Whether that layer, counted from 0, is a mixture."""
        return self.mixture is not None and self.mixture.layers[layer]

    def check_layout(self, parallel: ParallelConfig) -> None:
        """Raises ModelError when the model cannot be cut this way."""
        per_stage = self.layers // parallel.pipeline
        cuts = [
            ("num_attention_heads", self.heads, "tensor", parallel.tensor),
            ("num_key_value_heads", self.groups, "tensor", parallel.tensor),
            ("vocab_size", self.vocab, "tensor", parallel.tensor),
            ("num_hidden_layers", self.layers, "pipeline", parallel.pipeline),
            # divisible by pipeline, as that is checked before
            ("num_hidden_layers / parallel.pipeline", per_stage, "virtual_pipeline", parallel.virtual_pipeline),
        ]
        if self.mixture is None or not all(self.mixture.layers):
            cuts.append(("intermediate_size", self.ffn, "tensor", parallel.tensor))
        if self.mixture is not None:
            cuts.append(("num_experts", self.mixture.experts, "expert", parallel.expert))
        for field, value, name, parts in cuts:
            if value % parts:
                divisors = [n for n in range(1, parts) if value % n == 0]
                raise ModelError(
                    f"{self.path}: {field} = {value} is not divisible by parallel.{name} = {parts}: "
                    f"set parallel.{name} to one of {divisors}"
                )
        self._check_experts(parallel)

    def _check_experts(self, parallel: ParallelConfig) -> None:
        if self.mixture is None:
            if parallel.expert > 1:
                raise ModelError(
                    f"{self.path}: model_type = {self.model_type!r} has no experts, which parallel.expert = "
                    f"{parallel.expert} would share out: set parallel.expert to 1"
                )
            return
        if parallel.tensor > 1 and not parallel.sequence:
            raise ModelError(
                f"{self.path}: a mixture of experts under parallel.tensor = {parallel.tensor} needs parallel.sequence = "
                "true: else all tensor-parallel ranks would send the same tokens to the experts"
            )
        pieces = parallel.pipeline * parallel.virtual_pipeline
        each = self.layers // pieces
        without = [i for i in range(pieces) if not any(self.mixture.layers[i * each : (i + 1) * each])]
        if without:
            raise ModelError(
                f"{self.path}: layers {without[0] * each} to {(without[0] + 1) * each - 1}, one of the {pieces} pieces that "
                "parallel.pipeline and parallel.virtual_pipeline make of the model, are dense (mlp_only_layers, "
                "decoder_sparse_step): every piece needs a layer with experts: lower parallel.pipeline or virtual_pipeline"
            )

    def inverse_frequencies(self) -> Tensor:
        """Rotary angle per position of each pair of channels: [head_dim / 2] float32, radians.

        "llama3" stretches the low frequencies: wavelengths above the original context by ``factor``, those well within it
        not at all, and smoothly in between (Llama 3.1's reference code).
        """
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        inverse = 1.0 / (self.rope["rope_theta"] ** exponents)
        if self.rope["rope_type"] == "default":
            return inverse
        factor, low, high, original = (
            self.rope[key]
            for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        turns = original * inverse / (2 * math.pi)  # within the original context
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        return inverse * (smooth + (1 - smooth) / factor)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise ModelError(f"model = {path.parent}: no such directory; it should hold a Hugging Face model")
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; model should be a Hugging Face directory") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error


def _field(path: Path, values: dict[str, Any], name: str) -> Any:
    if values.get(name) is None:
        raise ModelError(f"{path}: {name} is missing")
    return values[name]


def _count(path: Path, values: dict[str, Any], name: str) -> int:
    value = _field(path, values, name)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{path}: {name} = {value!r}: expected a positive integer")
    return value


def _refuse_variants(path: Path, values: dict[str, Any]) -> None:
    """What these model types allow and this learner does not compute; training it silently wrong would be worse."""
    plain = {"hidden_act": "silu", "mlp_bias": False, "attention_bias": False, "use_sliding_window": False}
    for name, expected in plain.items():
        if values.get(name, expected) not in (expected, None):
            raise ModelError(f"{path}: {name} = {values[name]!r} is not supported; only {expected!r} is")
    kinds = set(values.get("layer_types") or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelError(f"{path}: layer_types contains {sorted(kinds)}; only full_attention is supported")


def _mixture(path: Path, values: dict[str, Any]) -> Mixture:
    """num_experts is called num_local_experts by newer versions of transformers."""
    experts = _count(path, values, "num_experts" if values.get("num_experts") is not None else "num_local_experts")
    chosen = _count(path, values, "num_experts_per_tok")
    normalised = bool(values.get("norm_topk_prob", False))
    if chosen > experts:
        raise ModelError(f"{path}: num_experts_per_tok = {chosen} is above num_experts = {experts}")
    if chosen == 1 and normalised:
        raise ModelError(
            f"{path}: norm_topk_prob = true with num_experts_per_tok = 1 is not supported: every token's weight is 1 and the "
            "router learns nothing; set norm_topk_prob to false"
        )
    step, dense = values.get("decoder_sparse_step", 1), values.get("mlp_only_layers") or []
    layers = range(_count(path, values, "num_hidden_layers"))
    which = tuple(layer not in dense and (layer + 1) % step == 0 for layer in layers)
    if not any(which):
        raise ModelError(
            f"{path}: decoder_sparse_step = {step} and mlp_only_layers = {dense} leave no layer with experts; use a dense "
            "model instead"
        )
    return Mixture(experts, chosen, _count(path, values, "moe_intermediate_size"), normalised, which)


def _rope(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Reads the old layout (rope_theta, rope_scaling) and the new one (rope_parameters)."""
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    rope.setdefault("rope_theta", values.get("rope_theta", 10_000.0))
    kind = rope.setdefault("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ModelError(f"{path}: rope_type = {kind!r} is not supported; supported: default, llama3")
    needed = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    for name in needed if kind == "llama3" else ():
        if not isinstance(rope.get(name), int | float):
            raise ModelError(f"{path}: rope_type llama3 needs {name}, which is {rope.get(name)!r}")
    return rope

"""What the learner needs to know of a model, read from a Hugging Face ``config.json``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.config import ParallelConfig
from learner.config.architectures import (
    MIXTURE_MODEL_TYPES,
    SUPPORTED_MODEL_TYPES,
    expert_count,
    layers_with_experts,
    layout_violations,
)
from runtime.errors import MISCONFIGURED, LeewayError


class ModelError(LeewayError):
    """A model directory that cannot be trained as configured: names the path, the field, its value and what to do."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class Mixture:
    """Experts in place of the gated MLP; a softmax over all of them chooses a few for each token. No token is ever dropped.

    No auxiliary loss balances the experts (router_aux_loss_coef is not read): it is a product of means over a micro-batch, so
    the gradient of a batch would depend on how it is split into micro-batches.

    Attributes:
        experts: experts of each mixture layer.
        chosen: experts that each token is sent to.
        ffn: width of one expert's hidden layer.
        normalised: whether the weights of a token's experts are scaled to sum to 1; if not, they are the softmax's.
        layers: whether each layer, from the first to the last, is a mixture; the others are dense.
    """

    experts: int
    chosen: int
    ffn: int
    normalised: bool
    layers: tuple[bool, ...]


@dataclass(frozen=True)
class Architecture:
    """A decoder: grouped-query attention, rotary positions, RMSNorm, gated SiLU, dense or a mixture of experts.

    Attributes:
        path: the config.json that it was read from.
        config: content of that file.
        groups: key/value heads.
        vocab: token ids, and rows of the embedding.
        tied: whether the output layer is the embedding.
        rope: rope_theta, rope_type and what that type needs.
        mixture: None for a dense model.
    """

    path: Path
    config: dict[str, Any]
    model_type: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    head_dim: int
    vocab: int
    norm_eps: float
    max_positions: int
    tied: bool
    rope: dict[str, Any]
    mixture: Mixture | None

    @classmethod
    def read(cls, directory: Path) -> Architecture:
        """Reads ``directory``/config.json.

        Raises:
            ModelError: the directory or file is missing, the file is malformed, or the architecture is not supported.
        """
        path = directory / "config.json"
        values = _read_json(path)
        model_type = _field(path, values, "model_type")
        if model_type not in SUPPORTED_MODEL_TYPES:
            supported = ", ".join(SUPPORTED_MODEL_TYPES)
            raise ModelError(f"{path}: model_type = {model_type!r} is not supported; supported: {supported}")
        _refuse_variants(path, values)
        heads = _count(path, values, "num_attention_heads")
        hidden = _count(path, values, "hidden_size")
        groups = values.get("num_key_value_heads") or heads
        if heads % groups:
            raise ModelError(f"{path}: num_attention_heads = {heads} is no multiple of num_key_value_heads = {groups}")
        return cls(
            path=path,
            config=values,
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
            mixture=_mixture(path, values) if model_type in MIXTURE_MODEL_TYPES else None,
        )

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have a bias."""
        return self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether each head's queries and keys pass through an RMSNorm."""
        return self.model_type in ("qwen3", "qwen3_moe")

    def has_experts(self, layer: int) -> bool:
        """Whether layer number ``layer``, counted from 0 over the whole model, is a mixture of experts."""
        return self.mixture is not None and self.mixture.layers[layer]

    def check_layout(self, parallel: ParallelConfig) -> None:
        """Checks that the model can be divided as ``parallel`` asks.

        Raises:
            ModelError: it cannot; the message has a line for each setting that does not fit.
        """
        violations = [f"{self.path}: {violation.text}" for violation in layout_violations(self.config, parallel)]
        if violations:
            raise ModelError("\n".join(violations))

    def inverse_frequencies(self) -> Tensor:
        """Rotary angle per position of each pair of channels: [head_dim / 2] float32, radians.

        "llama3" divides the low frequencies: by ``factor`` where the wavelength is longer than the original context, not at
        all where it is much shorter, and by something in between otherwise (Llama 3.1's reference code).
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
    """Refuses options of these model types that the learner does not compute: training would be silently wrong.

    Raises:
        ModelError: such an option is set.
    """
    plain = {"hidden_act": "silu", "mlp_bias": False, "attention_bias": False, "use_sliding_window": False}
    for name, expected in plain.items():
        if values.get(name, expected) not in (expected, None):
            raise ModelError(f"{path}: {name} = {values[name]!r} is not supported; only {expected!r} is")
    kinds = set(values.get("layer_types") or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelError(f"{path}: layer_types contains {sorted(kinds)}; only full_attention is supported")


def _mixture(path: Path, values: dict[str, Any]) -> Mixture:
    _count(path, values, "num_experts" if values.get("num_experts") is not None else "num_local_experts")
    experts = expert_count(values)
    chosen = _count(path, values, "num_experts_per_tok")
    normalised = bool(values.get("norm_topk_prob", False))
    if chosen > experts:
        raise ModelError(f"{path}: num_experts_per_tok = {chosen} is above num_experts = {experts}")
    if chosen == 1 and normalised:
        raise ModelError(
            f"{path}: norm_topk_prob = true with num_experts_per_tok = 1 is not supported: every token's weight is 1 and the "
            "router learns nothing; set norm_topk_prob to false"
        )
    layers = layers_with_experts(values)
    if not any(layers):
        step, dense = values.get("decoder_sparse_step", 1), values.get("mlp_only_layers") or []
        raise ModelError(
            f"{path}: decoder_sparse_step = {step} and mlp_only_layers = {dense} leave no layer with experts; use a dense "
            "model instead"
        )
    return Mixture(experts, chosen, _count(path, values, "moe_intermediate_size"), normalised, layers)


def _rope(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings from the old fields (rope_theta, rope_scaling) or the new one (rope_parameters)."""
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

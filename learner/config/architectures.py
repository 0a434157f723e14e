"""The model architectures that can be trained, and which parallel layouts each model allows. Needs no torch.

The learner, the launcher and `leeway doctor` check a model by these rules, and by those of model_keys.py (what becomes of
every key of config.json), model_config.py (its values) and model_weights.py (its tensors).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from learner.config.learner import ParallelConfig

# Values of model_type in config.json.
_DENSE_MODEL_TYPES = ("llama", "qwen2", "qwen3")
MIXTURE_MODEL_TYPES = ("qwen3_moe",)
SUPPORTED_MODEL_TYPES = (*_DENSE_MODEL_TYPES, *MIXTURE_MODEL_TYPES)


@dataclass(frozen=True)
class LayoutViolation:
    """A setting of [learner.parallel] that does not fit the model.

    Attributes:
        key: name of the setting, such as "tensor".
        value: number of ranks or model chunks that it asks for.
        text: a sentence that names the setting, its value, the model's property and the remedy.
    """

    key: str
    value: int
    text: str


def layout_violations(config: Mapping[str, Any], parallel: ParallelConfig) -> Iterator[LayoutViolation]:
    """Yields every setting of ``parallel`` that the model cannot be divided by.

    Args:
        config: content of the model's config.json.

    Raises:
        KeyError, TypeError, ValueError: ``config`` lacks a field of a causal language model, or it is no number.
    """
    heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
    yield from _divisible("tensor", parallel.tensor, "num_attention_heads", heads)
    yield from _divisible("tensor", parallel.tensor, "num_key_value_heads", key_value_heads(config))
    yield from _divisible("tensor", parallel.tensor, "vocab_size", int(config["vocab_size"]))
    sparse = layers_with_experts(config)
    if not all(sparse) and config.get("intermediate_size") is not None:  # experts are never cut, dense layers are
        yield from _divisible("tensor", parallel.tensor, "intermediate_size", int(config["intermediate_size"]))
    yield from _divisible("pipeline", parallel.pipeline, "num_hidden_layers", layers)
    if layers % parallel.pipeline == 0:
        name, per_stage = "num_hidden_layers / pipeline", layers // parallel.pipeline
        yield from _divisible("virtual_pipeline", parallel.virtual_pipeline, name, per_stage)
    if any(sparse):
        yield from _mixture_violations(expert_count(config), sparse, parallel)
    elif parallel.expert > 1:
        yield LayoutViolation(
            "expert",
            parallel.expert,
            f"learner.parallel.expert = {parallel.expert}: the model is dense and has no experts: set it to 1",
        )


def expert_count(config: Mapping[str, Any]) -> int:
    """Experts of each mixture layer; 0 for a dense model. Newer versions of transformers call it num_local_experts."""
    if config.get("model_type") in _DENSE_MODEL_TYPES:
        return 0
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)


def has_qkv_bias(model_type: str) -> bool:
    """Whether the query, key and value projections have a bias."""
    return model_type == "qwen2"


def has_qk_norm(model_type: str) -> bool:
    """Whether each head's queries and keys pass through an RMSNorm."""
    return model_type in ("qwen3", "qwen3_moe")


def layers_with_experts(config: Mapping[str, Any]) -> tuple[bool, ...]:
    """Whether each layer, from the first to the last, is a mixture of experts. All false for a dense model."""
    layers = range(int(config["num_hidden_layers"]))
    if not expert_count(config):
        return tuple(False for _ in layers)
    step, dense = int(config.get("decoder_sparse_step") or 1), config.get("mlp_only_layers") or []
    return tuple(layer not in dense and (layer + 1) % step == 0 for layer in layers)


def key_value_heads(config: Mapping[str, Any]) -> int:
    """Heads of the keys and values; as many as of the queries where config.json does not say."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _divisible(key: str, value: int, name: str, size: int) -> Iterator[LayoutViolation]:
    if size % value:
        divisors = [number for number in range(1, value) if size % number == 0]
        yield LayoutViolation(
            key,
            value,
            f"learner.parallel.{key} = {value} does not divide the model's {name} = {size}: set it to one of {divisors}",
        )


def _mixture_violations(experts: int, sparse: tuple[bool, ...], parallel: ParallelConfig) -> Iterator[LayoutViolation]:
    yield from _divisible("expert", parallel.expert, "num_experts", experts)
    if parallel.tensor > 1 and not parallel.sequence:
        yield LayoutViolation(
            "tensor",
            parallel.tensor,
            f"learner.parallel.tensor = {parallel.tensor} needs learner.parallel.sequence = true with a mixture of experts: "
            "else all tensor-parallel ranks would send the same tokens to the experts",
        )
    chunks = parallel.pipeline * parallel.virtual_pipeline
    if len(sparse) % chunks:
        return
    size = len(sparse) // chunks
    dense = [chunk for chunk in range(chunks) if not any(sparse[chunk * size : (chunk + 1) * size])]
    if dense:
        key = "virtual_pipeline" if parallel.virtual_pipeline > 1 else "pipeline"
        yield LayoutViolation(
            key,
            getattr(parallel, key),
            f"learner.parallel.pipeline = {parallel.pipeline} and learner.parallel.virtual_pipeline = "
            f"{parallel.virtual_pipeline} make {chunks} chunks of the model, of which layers {dense[0] * size} to "
            f"{(dense[0] + 1) * size - 1} are dense (mlp_only_layers, decoder_sparse_step): every chunk needs a layer with "
            "experts: lower pipeline or virtual_pipeline",
        )

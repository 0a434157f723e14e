"""The adapters that a model gets by [learner.lora]: names and shapes of their matrices, what is refused. Needs no torch.

Names and shapes are those of the package peft: an engine finds the projection that a matrix belongs to by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from learner.config.architectures import expert_count, head_dim, key_value_heads
from learner.config.latent import is_latent
from learner.config.learner import ParallelConfig
from learner.config.lora import LoraConfig
from learner.config.model_tensors import tensor_shapes

_PREFIX = "base_model.model."  # peft's, before the path of a module
_WEIGHT = ".weight"
_OF_MLP = ("gate_proj", "up_proj", "down_proj")
_JOINED = ("q_proj", "k_proj", "v_proj")
_OF_ATTENTION = (*_JOINED, "o_proj")


def matrix_names(weight: str) -> tuple[str, str]:
    """Names of A and B of the projection whose Hugging Face tensor is ``weight``."""
    path = _PREFIX + weight.removesuffix(_WEIGHT)
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"


def adapted_tensors(config: Mapping[str, Any], lora: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the Hugging Face tensors of all projections that have an adapter, in the order of the layers.

    Args:
        config: content of the model's config.json, checked.
        lora: which adapters there are.
    """
    endings = tuple(f".{target}{_WEIGHT}" for target in lora.targets)
    return {name: shape for name, shape in tensor_shapes(config).items() if name.endswith(endings)}


def adapter_shapes(config: Mapping[str, Any], lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """Names and shapes of the matrices of all adapters: [rank, in] and [out, rank] for each projection.

    Args:
        config: content of the model's config.json, checked.
        lora: which adapters there are; the model must be one that can have them (``lora_violations``).
    """
    found: dict[str, tuple[int, int]] = {}
    for name, shape in adapted_tensors(config, lora).items():
        first, second = matrix_names(name)
        found |= {first: (lora.rank, shape[1]), second: (shape[0], lora.rank)}
    return found


def lora_violations(config: Mapping[str, Any], lora: LoraConfig | None, parallel: ParallelConfig) -> Iterator[str]:
    """Yields a sentence for everything in [learner.lora] that the model or the layout does not allow.

    Args:
        config: content of the model's config.json, checked; the layout divides it.
        lora: which adapters there are; None: none.
        parallel: the layout.
    """
    if lora is None:
        return
    if is_latent(config):
        yield (
            f"learner.lora.targets = {list(lora.targets)}: adapters are made for projections of grouped-query attention, and "
            "this model's attention has latents (MLA): remove [learner.lora] to train its weights"
        )
        return
    of_experts = [target for target in lora.targets if target in _OF_MLP]
    if expert_count(config) and of_experts:
        others = [target for target in lora.targets if target not in of_experts] or [*_OF_ATTENTION]
        yield (
            f"learner.lora.targets contains {', '.join(of_experts)}: the model is a mixture of experts, and experts have no "
            f"adapters: each would be trained by a share of the tokens only: set it to {others}"
        )
    width = key_value_heads(config) * head_dim(config)
    cut = [target for target in lora.targets if target in _JOINED]
    if cut and width % parallel.tensor:
        yield (
            f"learner.lora.targets contains {', '.join(cut)}: the {key_value_heads(config)} heads of keys and values, of "
            f"{head_dim(config)} channels each, cannot be divided by learner.parallel.tensor = {parallel.tensor}: take them "
            "out, or lower tensor"
        )

"""The table of architectures: what the learner knows of each model_type of config.json, and of those it refuses. No torch.

model_config.py, model_keys.py, model_tensors.py and architectures.py decide by it, and with them the learner, the launcher
and `leeway doctor`. A new dense family is an entry here, its tensors in layer_parameters.py where it has others, and a model
of the equivalence tests. docs/models.md is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learner.config.rope import ROPE_TYPES


@dataclass(frozen=True)
class ModelType:
    """What the learner knows of one value of model_type.

    Attributes:
        class_name: value of "architectures" in config.json; an engine chooses the code that it runs by this name.
        models: models that are of this type.
        bias: whether the projections of queries, keys and values have a bias; "configured": those and the output projection
            have one where attention_bias is true.
        qk_norm: whether each head's queries and keys pass through an RMSNorm.
        head_dim: channels of a head where config.json has no head_dim at all; None: hidden_size / num_attention_heads.
        mixture: whether layers have experts.
        window: whether transformers reads sliding_window: "global": in every layer; "by layer": in the layers that
            layer_types names, all if it names none; None: not without use_sliding_window, which is refused.
        default_window: the window where config.json has no sliding_window at all, in tokens.
        reads: keys that the learner reads for this type and refuses for others.
        rope_types: kinds of rotary positions.
        engine: how the engine runs models of this type.
    """

    class_name: str
    models: str
    bias: Literal["none", "qkv", "configured"] = "none"
    qk_norm: bool = False
    head_dim: int | None = None
    mixture: bool = False
    window: Literal["global", "by layer"] | None = None
    default_window: int | None = None
    reads: frozenset[str] = frozenset()
    rope_types: tuple[str, ...] = tuple(ROPE_TYPES)
    engine: str = "a class of its own"


_BIASED = frozenset({"attention_bias"})

# Dense models, then mixtures of experts.
MODEL_TYPES: dict[str, ModelType] = {
    "llama": ModelType("LlamaForCausalLM", "Llama 2, 3, 3.1, 3.2 (text), 3.3", bias="configured", reads=_BIASED),
    "mistral": ModelType(
        "MistralForCausalLM",
        "Mistral 7B from 0.2 on, Nemo, Small (text)",
        window="global",
        default_window=4096,
        engine="as Llama; it reads no sliding_window",
    ),
    "ministral": ModelType(
        "MinistralForCausalLM",
        "Ministral 8B of 2024",
        window="by layer",
        default_window=4096,
        engine="no class of its own in SGLang 0.5.23",
    ),
    "qwen2": ModelType("Qwen2ForCausalLM", "Qwen2, Qwen2.5, their distillations", bias="qkv"),
    "qwen3": ModelType("Qwen3ForCausalLM", "Qwen3", bias="configured", qk_norm=True, head_dim=128, reads=_BIASED),
    "qwen3_moe": ModelType(
        "Qwen3MoeForCausalLM", "Qwen3 30B-A3B, 235B-A22B", bias="configured", qk_norm=True, mixture=True, reads=_BIASED
    ),
}

_GATED_DELTA = (
    "three of four layers are gated delta nets, a recurrence over the tokens of a sequence, which the learner does not "
    "compute over packed rows"
)
_LATENT = "its attention compresses keys and values (MLA), and its router chooses among groups of experts by a sigmoid"
# Types that people ask for: why they are refused.
REFUSED_MODEL_TYPES: dict[str, str] = {
    "qwen3_next": _GATED_DELTA,
    "qwen3_5": _GATED_DELTA,
    "qwen3_5_text": _GATED_DELTA,
    "qwen3_5_moe": _GATED_DELTA,
    "qwen3_5_moe_text": _GATED_DELTA,
    "gpt_oss": "its attention has a sink in every head and a window in every other layer, and its experts have biases",
    "deepseek_v3": _LATENT,
    "glm4_moe": "half of each head is rotated, an expert is shared by all tokens, and the router is a sigmoid with a bias",
    "glm4": "half of each head is rotated, in neighbouring channels, and the outputs of attention and MLP have norms",
    "ministral3": "its queries are scaled by their position (rope_parameters.llama_4_scaling_beta)",
    "mistral3": "it has a vision tower, and its queries may be scaled by their position (llama_4_scaling_beta)",
}

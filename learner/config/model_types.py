"""The table of architectures: what the learner knows of each model_type of config.json, and of those it refuses. No torch.

model_config.py, model_keys.py, model_tensors.py and architectures.py decide by it, and with them the learner, the launcher
and `leeway doctor`. A new dense family is an entry here, its tensors in layer_parameters.py where it has others, and a model
of the equivalence tests. docs/models.md is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from learner.config.rope import ROPE_TYPES


@dataclass(frozen=True)
class ExpertRouter:
    """How the layers with experts of a type choose some for each token.

    Attributes:
        score: "softmax": over all experts. "sigmoid": of each expert's own logit; the experts are chosen by score and
            correction bias (e_score_correction_bias), which no gradient moves, and weighted by the score alone.
        counts: keys of config.json that may have the number of experts.
        dense: which layers have no experts: "listed": mlp_only_layers and decoder_sparse_step; "first": as many of the first
            layers as first_k_dense_replace says.
        shared: the key of the number of experts that every token is sent to besides, computed as one gated MLP; None: none.
        scaled: whether the weights of a token's experts are multiplied by routed_scaling_factor.
        grouped: whether n_group and topk_group are read: experts are chosen within groups that are chosen first.
    """

    score: Literal["softmax", "sigmoid"] = "softmax"
    counts: tuple[str, ...] = ("num_experts", "num_local_experts")
    dense: Literal["listed", "first"] = "listed"
    shared: str | None = None
    scaled: bool = False
    grouped: bool = False

    @property
    def corrected(self) -> bool:
        """Whether experts are chosen with a correction bias."""
        return self.score == "sigmoid"


@dataclass(frozen=True)
class ModelType:
    """What the learner knows of one value of model_type.

    Attributes:
        class_name: value of "architectures" in config.json; an engine chooses the code that it runs by this name.
        models: models that are of this type.
        attention: "grouped": queries in groups that share a head of keys and values; "latent": keys and values are made of
            one short vector a token (learner/config/latent.py).
        bias: whether the projections of queries, keys and values have a bias; "configured": those and the output projection
            have one where attention_bias is true; "qkv configured": those without the output projection.
        qk_norm: whether each head's queries and keys pass through an RMSNorm; "configured": where use_qk_norm is true.
        head_dim: channels of a head where config.json has no head_dim at all; None: hidden_size / num_attention_heads.
        router: how layers with experts choose among them; None: the type has no experts.
        rotated: share of a head's channels that rotary positions turn where config.json has no partial_rotary_factor; None:
            all, whatever config.json says.
        drafts: whether config.json may ask for layers that predict further tokens (num_nextn_predict_layers): the learner
            neither trains nor publishes them.
        window: whether transformers reads sliding_window: "global": in every layer; "by layer": in the layers that
            layer_types names, all if it names none; None: not without use_sliding_window, which is refused.
        default_window: the window where config.json has no sliding_window at all, in tokens.
        alias_of: the type whose code this one's is, where transformers has none by its name.
        reads: keys that the learner reads for this type and refuses for others.
        rope_types: kinds of rotary positions.
        engine: how the engine runs models of this type.
        engine_ties: whether SGLang 0.5.23 reads tie_word_embeddings for the type.
    """

    class_name: str
    models: str
    attention: Literal["grouped", "latent"] = "grouped"
    bias: Literal["none", "qkv", "configured", "qkv configured"] = "none"
    qk_norm: bool | Literal["configured"] = False
    head_dim: int | None = None
    router: ExpertRouter | None = None
    rotated: float | None = None
    drafts: bool = False
    window: Literal["global", "by layer"] | None = None
    default_window: int | None = None
    alias_of: str | None = None
    engine_ties: bool = True
    reads: frozenset[str] = frozenset()
    rope_types: tuple[str, ...] = tuple(ROPE_TYPES)
    engine: str = "a class of its own"

    @property
    def mixture(self) -> bool:
        """Whether layers have experts."""
        return self.router is not None


_BIASED = frozenset({"attention_bias"})
_SIGMOID = ExpertRouter("sigmoid", ("n_routed_experts",), dense="first", shared="n_shared_experts", scaled=True)
_SIGMOID_KEYS = frozenset({"n_routed_experts", "n_shared_experts", "first_k_dense_replace", "routed_scaling_factor"})

_LATENT_KEYS = frozenset({
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim", "v_head_dim", "rope_interleave",
})  # fmt: skip
_DEEPSEEK_V3 = ModelType(
    "DeepseekV3ForCausalLM",
    "DeepSeek V3, V3.1 and R1 in bfloat16, Moonlight 16B-A3B",
    attention="latent",
    bias="configured",
    router=replace(_SIGMOID, grouped=True),
    drafts=True,
    # The code that models of this type bring along (auto_map) is what transformers and SGLang have under this class's name.
    reads=_BIASED | _SIGMOID_KEYS | _LATENT_KEYS | {"n_group", "topk_group", "num_nextn_predict_layers", "auto_map"},
    rope_types=("default", "yarn"),
    engine="a class of its own, in which the norms of latents read rms_norm_eps: transformers and the learner take 1e-6",
)

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
        "Qwen3MoeForCausalLM",
        "Qwen3 30B-A3B, 235B-A22B",
        bias="configured",
        qk_norm=True,
        router=ExpertRouter(),
        engine_ties=False,
        reads=_BIASED,
    ),
    "glm4_moe": ModelType(
        "Glm4MoeForCausalLM",
        "GLM 4.5, 4.5-Air, 4.6, 4.7",
        bias="qkv configured",
        qk_norm="configured",
        router=_SIGMOID,
        engine_ties=False,
        rotated=0.5,
        drafts=True,
        reads=_BIASED | _SIGMOID_KEYS | {"use_qk_norm", "partial_rotary_factor", "num_nextn_predict_layers"},
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": replace(
        _DEEPSEEK_V3,
        models="Kimi K2 in bfloat16: DeepSeek V3 under a name of its own, which transformers does not know",
        alias_of="deepseek_v3",
    ),
}

_GATED_DELTA = (
    "three of four layers are gated delta nets, a recurrence over the tokens of a sequence, which the learner does not "
    "compute over packed rows"
)
# Types that people ask for: why they are refused.
REFUSED_MODEL_TYPES: dict[str, str] = {
    "qwen3_next": _GATED_DELTA,
    "qwen3_5": _GATED_DELTA,
    "qwen3_5_text": _GATED_DELTA,
    "qwen3_5_moe": _GATED_DELTA,
    "qwen3_5_moe_text": _GATED_DELTA,
    "gpt_oss": "its attention has a sink in every head and a window in every other layer, and its experts have biases",
    "glm4": "half of each head is rotated, in neighbouring channels, and the outputs of attention and MLP have norms",
    "ministral3": "its queries are scaled by their position (rope_parameters.llama_4_scaling_beta)",
    "mistral3": "it has a vision tower, and its queries may be scaled by their position (llama_4_scaling_beta)",
}

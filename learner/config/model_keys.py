"""Every key of config.json that the supported models may have, and what becomes of it: read, harmless, or refused.

A key that is computed by transformers or by an engine, and not by the learner, would train another model than the one that
samples. Such a key is refused unless it is at the value that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from learner.config.model_types import MODEL_TYPES, ModelType

# Keys that the learner computes with, or divides the model by.
READ = frozenset({
    "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings",
    "tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings",
    "layer_types", "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
    "decoder_sparse_step", "mlp_only_layers",
})  # fmt: skip

# Keys that do not change the log-probability of a token.
HARMLESS = frozenset({
    # Who made the file, and how it was stored: the dtype of each tensor is read from its file.
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_bfloat16", "model_name", "finetuning_task",
    "task_specific_params", "unsloth_fixed", "unsloth_version", "tokenizer_class", "prefix", "is_decoder", "is_llama_config",
    "transformers.js_config",
    # What a call returns.
    "return_dict", "return_dict_in_generate", "output_hidden_states", "output_attentions", "output_router_logits",
    "output_scores", "use_cache", "torchscript", "tf_legacy_loss", "_attn_implementation_autoset", "chunk_size_feed_forward",
    "cache_implementation",
    # Classes of a classifier, which a causal language model has not.
    "id2label", "label2id", "num_labels", "problem_type",
    # Training elsewhere: no dropout and no auxiliary loss is applied here. pretraining_tp splits a product into partial sums.
    "initializer_range", "attention_dropout", "router_aux_loss_coef", "pretraining_tp", "aux_loss_alpha", "seq_aux",
    # How many ranks shared the experts elsewhere.
    "ep_size",
    # Without effect unless use_sliding_window is set; model_config.py reads the window of types that need no such key.
    "sliding_window", "max_window_layers",
    # Generation.
    "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
})  # fmt: skip

_QUANTISED = "the weights are quantised, and the learner reads no scales: publish or convert to bfloat16 first"
_ATTENTION = "the learner computes full causal attention and nothing else"
_BIAS = "the learner computes no such bias for this model_type"
_LATENT = "the learner computes attention with latents (MLA) for other types only"
_EXTRA = "the learner does not compute these layers"
_SCALE = "the learner does not compute this"
# Keys that are refused unless they are absent, null, false, 0 or empty, or the model's type reads them: why.
OFF: dict[str, str] = {
    "quantization_config": _QUANTISED,
    "compression_config": _QUANTISED,
    "quantization": _QUANTISED,
    "attention_bias": _BIAS,
    "attention_out_bias": _BIAS,
    "mlp_bias": _BIAS,
    "lm_head_bias": _BIAS,
    "use_sliding_window": _ATTENTION,
    "dual_chunk_attention_config": _ATTENTION,
    "sparse_attention_config": _ATTENTION,
    "use_bidirectional_attention": _ATTENTION,
    "attention_sinks": _ATTENTION,
    "attn_output_gate": _ATTENTION,
    "is_encoder_decoder": _ATTENTION,
    "add_cross_attention": _ATTENTION,
    "cross_attention_hidden_size": _ATTENTION,
    "tie_encoder_decoder": _ATTENTION,
    "pruned_heads": _ATTENTION,
    "no_rope_layers": "the learner rotates the queries and keys of every layer",
    "q_lora_rank": _LATENT,
    "kv_lora_rank": _LATENT,
    "qk_nope_head_dim": _LATENT,
    "qk_rope_head_dim": _LATENT,
    "qk_head_dim": _LATENT,
    "v_head_dim": _LATENT,
    "rope_interleave": "the learner rotates neighbouring channels for types with latents (MLA) only",
    "rope_interleaved": "the learner rotates the two halves of a head, not neighbouring channels",
    "use_mrope": "the learner computes one rotary position a token",
    "num_nextn_predict_layers": _EXTRA,
    "num_mtp_layers": _EXTRA,
    "num_mtp_modules": _EXTRA,
    "mtp_num_hidden_layers": _EXTRA,
    "shared_expert_intermediate_size": _EXTRA,
    "n_shared_experts": _EXTRA,
    "num_shared_experts": _EXTRA,
    "n_routed_experts": _EXTRA,
    "first_k_dense_replace": _EXTRA,
    "text_config": _EXTRA,
    "vision_config": _EXTRA,
    "audio_config": _EXTRA,
    "final_logit_softcapping": _SCALE,
    "attn_logit_softcapping": _SCALE,
    "query_pre_attn_scalar": _SCALE,
    "attention_multiplier": _SCALE,
    "router_jitter_noise": _SCALE,
    "auto_map": "the model has code of its own, which the learner does not run",
    "transformers_weights": "the learner reads model.safetensors or the files of its index: name the file so",
}

# Keys that are refused unless they are absent, null or this value.
FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "partial_rotary_factor": 1.0,
    "rotary_pct": 1.0,
    "is_causal": True,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "moe_layer_freq": 1,
}

# Keys whose only value depends on model_type.
FIXED_BY_TYPE: dict[str, Callable[[ModelType], Any]] = {
    "qkv_bias": lambda known: known.bias == "qkv",
    "use_qk_norm": lambda known: known.qk_norm,
    "qk_layernorm": lambda known: known.qk_norm,
    "scoring_func": lambda known: known.router.score if known.router else None,
    "topk_method": lambda known: "noaux_tc" if known.router and known.router.corrected else None,
}

KNOWN = READ | HARMLESS | OFF.keys() | FIXED.keys() | FIXED_BY_TYPE.keys()


def refused_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for every key that asks for something that the learner does not compute.

    Args:
        config: content of a config.json of a supported model_type.
    """
    known = MODEL_TYPES[config["model_type"]]
    for key, value in config.items():
        if key in known.reads:
            continue
        if key in OFF and value:
            method = value.get("quant_method") if isinstance(value, Mapping) else None
            name, shown = (f"{key}.quant_method", method) if method else (key, value)
            yield f"{name} = {shown!r} is not supported: {OFF[key]}"
        elif key in FIXED or key in FIXED_BY_TYPE:
            only = FIXED[key] if key in FIXED else FIXED_BY_TYPE[key](known)
            if value not in (None, only):
                yield f"{key} = {value!r} is not supported; only {only!r} is"


def unknown_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys that are in no table, sorted: the learner ignores them, and nobody has looked at whether it may."""
    return sorted(config.keys() - KNOWN)

"""What a resumed run must share with its checkpoint: the network of its weights, and their tokenizer.

Shapes alone prove little: weights of another vocabulary can be cut or padded without a word, and those of a model with
another base of the rotary angles fit exactly. So a checkpoint carries its model's fingerprint, and a difference is refused.
Where adapters are trained, which adapters there are and the digest of the weights that they adapt are a part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.config import LoraConfig
from runtime.digest import of_file
from runtime.errors import MISCONFIGURED, LeewayError

Fingerprint = dict[str, Any]

_TOKENIZER = "tokenizer.json"
_LORA = "learner.lora"
# What learner.megatron.model.architecture calls it -> the field of config.json. max_position_embeddings is not among them:
# rotary positions have no parameters, and a longer limit changes nothing that was trained.
_FIELDS = {
    "model_type": "model_type",
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "groups": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "bias": "attention_bias",
    "qk_norm": "use_qk_norm",
    "rotated": "rotated channels of a head",
}
_LATENT_FIELDS = {
    "query_rank": "q_lora_rank",
    "rank": "kv_lora_rank",
    "plain": "qk_nope_head_dim",
    "rotated": "qk_rope_head_dim",
    "value": "v_head_dim",
    "interleaved": "rope_interleave",
    "scale": "scale of the softmax",
    "bias": "attention_bias of latents",
}
_MIXTURE_FIELDS = {
    "experts": "num_experts",
    "chosen": "num_experts_per_tok",
    "ffn": "moe_intermediate_size",
    "normalised": "norm_topk_prob",
    "layers": "layers with experts",
    "score": "scoring_func",
    "scaling": "routed_scaling_factor",
    "shared": "n_shared_experts * moe_intermediate_size",
    "groups": "n_group",
    "chosen_groups": "topk_group",
}


class FingerprintError(LeewayError):
    """The model of the settings is not the one that the checkpoint was trained from."""

    exit_status = MISCONFIGURED


def fingerprint(
    architecture: Mapping[str, Any], model: Path, lora: LoraConfig | None = None, weights: str | None = None
) -> Fingerprint:
    """Returns what must not change when the run is resumed, as JSON values, by the names that config.json uses.

    Args:
        architecture: the fields of the model's Architecture, its latent and its mixture as mappings or None. Values that
            config.json leaves out or may spell in several ways have been filled in there.
        model: the model's directory. Without a tokenizer.json in it, tokenizers are not compared.
        lora: the adapters that are trained; None: the weights themselves are, and another model's may be trained on.
        weights: digest of the model's weights, with ``lora``.

    Raises:
        OSError: tokenizer.json cannot be read.
    """
    found = {name: architecture[field] for field, name in _FIELDS.items()}
    found |= architecture["rope"]
    for part, names in (("latent", _LATENT_FIELDS), ("mixture", _MIXTURE_FIELDS)):
        values = architecture[part]
        if values is not None:
            found |= {name: values[field] for field, name in names.items()}
    found[_LORA] = None if lora is None else lora.model_dump(mode="json")
    if lora is not None:
        found["digest of the weights"] = weights
    if (model / _TOKENIZER).is_file():
        found[_TOKENIZER] = of_file(model / _TOKENIZER)[1]
    return json.loads(json.dumps(found))


def require_same(checkpoint: Path, saved: Fingerprint, present: Fingerprint, model: Path, versions: Path) -> None:
    """Checks that the checkpoint was trained from the model that the settings name.

    Args:
        checkpoint: the directory of the checkpoint.
        saved: the fingerprint in it.
        present: the fingerprint of ``model``.
        model: the model of the settings.
        versions: the directory of the run's published versions, for the message.

    Raises:
        FingerprintError: the two differ; the message names each field and both values.
    """
    different = [name for name in saved if name in present and saved[name] != present[name]]
    if different:
        fields = "; ".join(f"{name} is {present[name]!r}, the checkpoint's is {saved[name]!r}" for name in different)
        raise FingerprintError(
            f"model = {model} is not the model that {checkpoint} was trained from: {fields}. A run keeps its network, its "
            "tokenizer and, with [learner.lora], its adapters and the weights that they adapt: set model (model.path in a "
            "run file) and learner.lora back to resume it. To go on with another model on purpose, "
            f"start a new run (another run.name, other directories) from a published version of this one (one of {versions}) "
            "or from any other model: model.path = its directory"
        )

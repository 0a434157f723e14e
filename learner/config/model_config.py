"""Reads and checks a model's config.json. Needs no torch.

The learner, the launcher and `leeway doctor` refuse a model by these rules, so that what doctor passes, the learner trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from learner.config.architectures import head_dim, layers_with_experts
from learner.config.model_keys import refused_keys
from learner.config.model_types import MODEL_TYPES, REFUSED_MODEL_TYPES
from learner.config.rope import rope_faults
from runtime.errors import MISCONFIGURED, LeewayError

_COUNTS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size", "max_position_embeddings",
)  # fmt: skip


class ModelError(LeewayError):
    """A model directory that cannot be trained as configured: names the path, the field, its value and what to do."""

    exit_status = MISCONFIGURED


def read_config(directory: Path) -> dict[str, Any]:
    """Reads ``directory``/config.json and checks that the learner computes exactly the model that it describes.

    Raises:
        ModelError: the directory or file is missing, the file is malformed, or the model is not supported. The message has a
            line for each fault.
    """
    path = directory / "config.json"
    values = _read_json(path)
    kind = values.get("model_type")
    if kind not in MODEL_TYPES:
        reason = f": {REFUSED_MODEL_TYPES[kind]}" if kind in REFUSED_MODEL_TYPES else ""
        raise ModelError(f"{path}: model_type = {kind!r} is not supported{reason}; supported: {', '.join(MODEL_TYPES)}")
    known = MODEL_TYPES[kind]
    faults = [*_field_faults(values), *_class_faults(values), *refused_keys(values), *_window_faults(values)]
    faults += rope_faults(values, known.rope_types)
    if not faults and known.mixture:
        faults = list(_mixture_faults(values))
    if faults:
        raise ModelError("\n".join(f"{path}: {fault}" for fault in faults))
    return values


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise ModelError(f"model = {path.parent}: no such directory; it should hold a Hugging Face model")
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; model should be a Hugging Face directory") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected an object, with model_type and the sizes of the model")
    return values


def _field_faults(values: Mapping[str, Any]) -> Iterator[str]:
    yield from (fault for name in _COUNTS for fault in _count_faults(values, name))
    for name in ("num_key_value_heads", "head_dim"):
        if values.get(name) is not None:
            yield from _count_faults(values, name)
    epsilon = values.get("rms_norm_eps")
    if not _is_number(epsilon) or not 0 <= epsilon < 1:
        yield "rms_norm_eps is missing" if epsilon is None else f"rms_norm_eps = {epsilon!r}: expected a number below 1"
    for name in ("tie_word_embeddings", "norm_topk_prob", "attention_bias"):
        if not isinstance(values.get(name), bool | None):
            yield f"{name} = {values[name]!r}: expected true or false"
    heads, groups = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if _is_count(heads) and _is_count(groups) and heads % groups:
        yield f"num_attention_heads = {heads} is no multiple of num_key_value_heads = {groups}"
    if _is_count(heads) and _is_count(values.get("hidden_size")):
        hidden, width = values["hidden_size"], head_dim(values)
        if not values.get("head_dim") and MODEL_TYPES[values["model_type"]].head_dim is None and hidden % heads:
            yield f"hidden_size = {hidden} is no multiple of num_attention_heads = {heads}, and there is no head_dim"
        elif _is_count(width) and width % 2:
            yield f"head_dim = {width}: rotary positions need an even number of channels"


def _class_faults(values: Mapping[str, Any]) -> Iterator[str]:
    names, expected = values.get("architectures") or [], MODEL_TYPES[values["model_type"]].class_name
    if names not in ([], [expected]):
        yield f"architectures = {names!r} is not supported; with model_type = {values['model_type']!r} only {expected} is"
    kinds = set(values.get("layer_types") or ["full_attention"])
    if MODEL_TYPES[values["model_type"]].window == "by layer":
        kinds -= {"sliding_attention"}  # its window is checked on its own
    if not kinds <= {"full_attention"}:
        yield f"layer_types contains {sorted(kinds)}; only full_attention is supported"


def _window_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """A window that is no smaller than the longest sequence changes nothing."""
    kind = MODEL_TYPES[values["model_type"]]
    kinds = values.get("layer_types") if kind.window == "by layer" else None
    if kind.window is None or (kinds and "sliding_attention" not in kinds):
        return
    window, longest = values.get("sliding_window", kind.default_window), values.get("max_position_embeddings")
    if window is None or not _is_count(longest):
        return
    if not _is_count(window):
        yield f"sliding_window = {window!r}: expected a positive integer or null"
    elif window < longest:
        absent = "" if "sliding_window" in values else " (the default, as there is no such key)"
        yield (
            f"sliding_window = {window}{absent} is below max_position_embeddings = {longest}, and the learner computes full "
            f"causal attention only: set max_position_embeddings to {window} to train on sequences that the window holds, or "
            "sliding_window to null if the model was trained without it"
        )


def _mixture_faults(values: Mapping[str, Any]) -> Iterator[str]:
    old, new = values.get("num_experts"), values.get("num_local_experts")
    if None not in (old, new) and old != new:
        yield f"num_experts = {old} and num_local_experts = {new} contradict each other: remove one"
    names = ("num_local_experts" if old is None else "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    faults = [fault for name in names for fault in _count_faults(values, name)]
    step, dense = values.get("decoder_sparse_step", 1), values.get("mlp_only_layers") or []
    if not _is_count(step):
        faults.append(f"decoder_sparse_step = {step!r}: expected a positive integer")
    if not isinstance(dense, list):
        faults.append(f"mlp_only_layers = {dense!r}: expected a list of layers")
    yield from faults
    if faults:
        return
    experts, chosen = values[names[0]], values["num_experts_per_tok"]
    if chosen > experts:
        yield f"num_experts_per_tok = {chosen} is above num_experts = {experts}"
    if chosen == 1 and values.get("norm_topk_prob"):
        yield (
            "norm_topk_prob = true with num_experts_per_tok = 1 is not supported: every token's weight is 1 and the router "
            "learns nothing; set norm_topk_prob to false"
        )
    if not any(layers_with_experts(values)):
        yield (
            f"decoder_sparse_step = {step} and mlp_only_layers = {dense} leave no layer with experts; use a dense model "
            "instead"
        )


def _count_faults(values: Mapping[str, Any], name: str) -> Iterator[str]:
    if values.get(name) is None:
        yield f"{name} is missing"
    elif not _is_count(values[name]):
        yield f"{name} = {values[name]!r}: expected a positive integer"


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)

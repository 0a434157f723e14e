"""Reads and checks a model's config.json. Needs no torch.

The learner, the launcher and `leeway doctor` refuse a model by these rules, so that what doctor passes, the learner trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from learner.config.architectures import head_dim, layers_with_experts, rotated_channels, router_of
from learner.config.latent import is_latent, latent_faults
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
    faults += latent_faults(values) if known.attention == "latent" else ()
    faults += rope_faults(values, known.rope_types, known.rotated)
    if not faults:
        faults = [*_rotation_faults(values), *(_mixture_faults(values) if known.mixture else ())]
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
    for name in ("tie_word_embeddings", "norm_topk_prob", "attention_bias", "use_qk_norm"):
        if not isinstance(values.get(name), bool | None):
            yield f"{name} = {values[name]!r}: expected true or false"
    heads, groups = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if _is_count(heads) and _is_count(groups) and heads % groups:
        yield f"num_attention_heads = {heads} is no multiple of num_key_value_heads = {groups}"
    if _is_count(heads) and _is_count(values.get("hidden_size")) and not is_latent(values):
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


def _rotation_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Faults of rotary positions that turn a part of each head, and of layers that predict further tokens."""
    known = MODEL_TYPES[values["model_type"]]
    if known.rotated is not None and (rotated_channels(values) % 2 or not rotated_channels(values)):
        yield (
            f"partial_rotary_factor turns {rotated_channels(values)} of head_dim = {head_dim(values)} channels: rotary "
            "positions need an even number of channels"
        )
    if known.drafts and not _is_count_or_zero(values.get("num_nextn_predict_layers")):
        yield f"num_nextn_predict_layers = {values['num_nextn_predict_layers']!r}: expected a number of layers"


def _mixture_faults(values: Mapping[str, Any]) -> Iterator[str]:
    router = router_of(values)
    assert router is not None
    given = [name for name in router.counts if values.get(name) is not None]
    if any(values[name] != values[given[0]] for name in given):
        yield f"{' and '.join(f'{name} = {values[name]}' for name in given)} contradict each other: remove one"
    count = (given or router.counts[-1:])[0]
    names = (count, "num_experts_per_tok", "moe_intermediate_size")
    faults = [fault for name in names for fault in _count_faults(values, name)]
    faults += _sigmoid_faults(values) if router.corrected else _listed_faults(values)
    yield from faults
    if faults:
        return
    experts, chosen = values[count], values["num_experts_per_tok"]
    yield from _group_faults(values, experts, chosen) if router.grouped else ()
    if chosen > experts:
        yield f"num_experts_per_tok = {chosen} is above {count} = {experts}"
    if chosen > 1 and router.corrected and not values.get("norm_topk_prob"):
        yield (
            f"norm_topk_prob = {values.get('norm_topk_prob')!r} is not supported: with a sigmoid router the learner scales "
            "the weights of a token's experts to sum to 1 before routed_scaling_factor multiplies them; only true is"
        )
    if chosen == 1 and values.get("norm_topk_prob"):
        yield (
            "norm_topk_prob = true with num_experts_per_tok = 1 is not supported: every token's weight is 1 and the router "
            "learns nothing; set norm_topk_prob to false"
        )
    if not any(layers_with_experts(values)):
        names = ("first_k_dense_replace",) if router.dense == "first" else ("decoder_sparse_step", "mlp_only_layers")
        told = " and ".join(f"{name} = {values.get(name)}" for name in names)
        yield f"{told} leave no layer with experts; use a dense model instead"


def _listed_faults(values: Mapping[str, Any]) -> Iterator[str]:
    step, dense = values.get("decoder_sparse_step", 1), values.get("mlp_only_layers") or []
    if not _is_count(step):
        yield f"decoder_sparse_step = {step!r}: expected a positive integer"
    if not isinstance(dense, list):
        yield f"mlp_only_layers = {dense!r}: expected a list of layers"


def _sigmoid_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Faults of what sigmoid routers read. Defaults differ between the types of transformers: nothing may be absent."""
    yield from _count_faults(values, "n_shared_experts")
    dense, scaling = values.get("first_k_dense_replace"), values.get("routed_scaling_factor")
    if dense is None or not _is_count_or_zero(dense):
        yield f"first_k_dense_replace = {dense!r}: expected the number of first layers that have no experts"
    if not _is_number(scaling) or scaling <= 0:
        yield f"routed_scaling_factor = {scaling!r}: expected a positive number"


def _group_faults(values: Mapping[str, Any], experts: int, chosen: int) -> Iterator[str]:
    """Faults of groups of experts, of which a token is sent to some."""
    faults = [*_count_faults(values, "n_group"), *_count_faults(values, "topk_group")]
    yield from faults
    if faults:
        return
    groups, some = values["n_group"], values["topk_group"]
    reachable = some * (experts // groups)
    if some > groups:
        yield f"topk_group = {some} is above n_group = {groups}"
    elif experts % groups:
        yield f"n_group = {groups} does not divide n_routed_experts = {experts}"
    elif groups > 1 and experts // groups < 2:
        yield f"n_group = {groups} leaves one expert to a group, and a group is chosen by its two best experts"
    elif chosen > reachable:
        yield f"num_experts_per_tok = {chosen} is above the {reachable} experts of {some} groups (topk_group)"
    elif groups > 1 and chosen // some != 2:
        yield (
            f"num_experts_per_tok = {chosen} with topk_group = {some} is not supported: a group is chosen by its two best "
            f"experts, and by Megatron's router by its {chosen} // {some} best"
        )


def _count_faults(values: Mapping[str, Any], name: str) -> Iterator[str]:
    if values.get(name) is None:
        yield f"{name} is missing"
    elif not _is_count(values[name]):
        yield f"{name} = {values[name]!r}: expected a positive integer"


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _is_count_or_zero(value: Any) -> bool:
    """Whether it is a number of things, 0 or null included."""
    return value is None or (type(value) is int and value >= 0)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)

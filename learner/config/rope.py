"""Rotary positions as config.json describes them: the kinds that the learner computes, and what each needs. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

LLAMA3_FIELDS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# Kinds that the learner computes: the fields that each needs, positive numbers.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": LLAMA3_FIELDS,
    "yarn": ("factor", "original_max_position_embeddings"),
}
_BY_LENGTH = "the angles of a token would depend on the length of its sequence"
_REFUSED_TYPES = {"dynamic": _BY_LENGTH, "longrope": _BY_LENGTH, "su": _BY_LENGTH}
_YARN_NUMBERS = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section"}


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings from the old fields (rope_theta, rope_scaling) or the new one (rope_parameters).

    Has rope_theta and rope_type, and what that type needs.
    """
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope.setdefault("rope_theta", config.get("rope_theta") or 10_000.0)
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def rotated_share(config: Mapping[str, Any], default: float | None) -> float:
    """Share of a head's channels that rotary positions turn.

    Args:
        config: content of a config.json.
        default: the share where config.json does not say; None: always all of them.
    """
    if default is None:
        return 1.0
    inner, outer = rope_settings(config).get("partial_rotary_factor"), config.get("partial_rotary_factor")
    return next((share for share in (inner, outer) if share is not None), default)


def computed_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the rotary angles of a checked config.json, with all defaults filled in: equal values, equal angles.

    Has rope_theta, rope_type, attention_factor, which multiplies cosines and sines, and what the type needs.
    """
    rope = rope_settings(config)
    kind = rope["rope_type"]
    found = {name: rope[name] for name in ("rope_theta", "rope_type", *ROPE_TYPES[kind])} | {"attention_factor": 1.0}
    if kind == "yarn":
        found |= {"beta_fast": rope.get("beta_fast") or 32, "beta_slow": rope.get("beta_slow") or 1}
        found |= {"truncate": rope.get("truncate", True), "attention_factor": rope.get("attention_factor")}
        found["attention_factor"] = found["attention_factor"] or derived_attention_factor(rope)
    return found


def derived_attention_factor(rope: Mapping[str, Any]) -> float:
    """The factor of cosines and sines of yarn where attention_factor does not say."""
    scale, above, below = rope["factor"], rope.get("mscale"), rope.get("mscale_all_dim")
    if above and below:
        return magnitude(scale, above) / magnitude(scale, below)
    return magnitude(scale, 1)


def magnitude(scale: float, weight: float) -> float:
    """What yarn multiplies queries and keys by for a context that is ``scale`` times as long, with a weight of that."""
    return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0


def rope_faults(config: Mapping[str, Any], kinds: tuple[str, ...], rotated: float | None = None) -> Iterator[str]:
    """Yields a sentence for every rotary setting that the learner does not compute, or that contradicts another.

    Args:
        config: content of a config.json.
        kinds: rope types of the model's type.
        rotated: share of a head's channels that this type turns where config.json does not say; None: all, always.
    """
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if not isinstance(old, dict | None) or not isinstance(new, dict | None):
        yield f"rope_scaling = {old!r} and rope_parameters = {new!r}: expected objects"
        return
    if old and new and old != new:
        yield f"rope_scaling = {old} and rope_parameters = {new} contradict each other: remove one"
    rope, name = rope_settings(config), "rope_scaling" if old else "rope_parameters"
    if any(isinstance(value, dict) for value in rope.values()):
        yield f"{name} = {rope}: rotary settings that differ by layer are not supported"
        return
    yield from _contradictions(config, rope, name)
    if rotated is not None:
        yield from _share_faults(config, rope, name)
    elif rope.get("partial_rotary_factor") not in (None, 1):
        yield f"{name}.partial_rotary_factor = {rope['partial_rotary_factor']!r} is not supported; only 1.0 is"
    if rope.get("mrope_section"):
        yield f"{name}.mrope_section = {rope['mrope_section']} is not supported: the learner computes one position a token"
    kind = rope["rope_type"]
    if kind not in kinds:
        reason = f": {_REFUSED_TYPES[kind]}" if kind in _REFUSED_TYPES else ""
        yield f"rope_type = {kind!r} is not supported{reason}; supported: {', '.join(kinds)}"
        return
    yield from _field_faults(rope, name)


def _share_faults(config: Mapping[str, Any], rope: Mapping[str, Any], name: str) -> Iterator[str]:
    """Faults of the share of a head's channels that is turned, where the type reads it."""
    field = "partial_rotary_factor"
    inner, outer = rope.get(field), config.get(field)
    for place, share in ((f"{name}.{field}", inner), (field, outer)):
        if share is not None and not (_is_positive(share) and share <= 1):
            yield f"{place} = {share!r}: expected a number above 0, at most 1"
    if None not in (inner, outer) and inner != outer:
        yield f"{field} = {outer!r} and {name}.{field} = {inner!r} contradict each other: remove the former"


def _contradictions(config: Mapping[str, Any], rope: Mapping[str, Any], name: str) -> Iterator[str]:
    kind, theta = rope["rope_type"], rope["rope_theta"]
    if rope.get("type", kind) != kind:
        yield f"{name}.type = {rope['type']!r} and {name}.rope_type = {kind!r} contradict each other: remove one"
    if not _is_positive(theta):
        yield f"rope_theta = {theta!r}: expected a positive number"
    elif config.get("rope_theta") not in (None, theta):
        yield f"rope_theta = {config['rope_theta']!r} and {name}.rope_theta = {theta!r} contradict each other: remove one"
    # transformers and SGLang prefer this one to the one within.
    outside, field = config.get("original_max_position_embeddings"), "original_max_position_embeddings"
    if field in ROPE_TYPES.get(kind, ()) and outside not in (None, rope.get(field)):
        yield f"{field} = {outside!r} and {name}.{field} = {rope.get(field)!r} contradict each other: remove the former"


def _field_faults(rope: Mapping[str, Any], name: str) -> Iterator[str]:
    """Faults among the fields of a supported type."""
    kind = rope["rope_type"]
    for field in ROPE_TYPES[kind]:
        if not _is_positive(rope.get(field)):
            yield f"rope_type {kind} needs {field}, a positive number, which is {rope.get(field)!r}"
    optional = {*_YARN_NUMBERS, "truncate"} if kind == "yarn" else set()
    for field in sorted(rope.keys() - _FIELDS - {*ROPE_TYPES[kind]} - optional):
        if rope[field] is not None:
            yield f"{name}.{field} = {rope[field]!r} is not supported: rope_type {kind} of the learner does not read it"
    if kind == "yarn":
        for field in _YARN_NUMBERS:
            if rope.get(field) is not None and not _is_positive(rope[field]):
                yield f"{name}.{field} = {rope[field]!r}: expected a positive number, or null for yarn's default"
                return
        if not isinstance(rope.get("truncate", True), bool):
            yield f"{name}.truncate = {rope['truncate']!r}: expected true or false"
        fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
        if fast < slow:
            yield f"{name}.beta_fast = {fast!r} is below {name}.beta_slow = {slow!r}: exchange them"


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and value > 0

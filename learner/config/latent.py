"""Multi-head latent attention (MLA) as config.json describes it: its sizes, and what is refused of it. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from learner.config.model_types import MODEL_TYPES
from learner.config.rope import magnitude, rope_settings

LATENT_EPSILON = 1e-6  # of the latents' norms in transformers, whatever rms_norm_eps is
_SIZES = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


@dataclass(frozen=True)
class Latent:
    """The sizes of attention whose keys and values are products of one short vector a token, its latent.

    Attributes:
        query_rank: channels of the latent that queries are made of; None: they are made of the hidden state.
        rank: channels of the latent that the keys' plain channels and the values of all heads are made of.
        plain: channels of a head's query and key that are not rotated.
        rotated: channels of them, behind those, that are; the keys of all heads share them.
        value: channels of a head's value.
        interleaved: whether neighbouring channels are rotated together; if not, channel i and i + rotated / 2.
        scale: what products of queries and keys are multiplied by before the softmax.
        bias: whether the projections to latents, and the output projection, have a bias.
    """

    query_rank: int | None
    rank: int
    plain: int
    rotated: int
    value: int
    interleaved: bool
    scale: float
    bias: bool

    @property
    def key(self) -> int:
        """Channels of a head's query, and of its key."""
        return self.plain + self.rotated


def is_latent(config: Mapping[str, Any]) -> bool:
    """Whether the model's attention is latent, by its model_type."""
    known = MODEL_TYPES.get(config.get("model_type", ""))
    return known is not None and known.attention == "latent"


def latent(config: Mapping[str, Any]) -> Latent | None:
    """Sizes of the latent attention of a checked config.json; None for grouped-query attention."""
    if not is_latent(config):
        return None
    plain, rotated = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    interleaved = config.get("rope_interleave")
    return Latent(
        query_rank=config.get("q_lora_rank"),
        rank=config["kv_lora_rank"],
        plain=plain,
        rotated=rotated,
        value=config["v_head_dim"],
        interleaved=True if interleaved is None else interleaved,
        scale=_softmax_factor(config) * (plain + rotated) ** -0.5,
        bias=bool(config.get("attention_bias")),
    )


def latent_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for every field of latent attention that is missing, malformed or not computed."""
    sizes: dict[str, Any] = {name: config.get(name) for name in _SIZES}
    for name, value in sizes.items():
        if not _is_count(value):
            yield f"{name} is missing" if value is None else f"{name} = {value!r}: expected a positive integer"
    rank, rotated = config.get("q_lora_rank"), sizes["qk_rope_head_dim"]
    if rank is not None and not _is_count(rank):
        yield f"q_lora_rank = {rank!r}: expected a positive integer, or null for queries that have no latent"
    if not isinstance(config.get("rope_interleave"), bool | None):
        yield f"rope_interleave = {config['rope_interleave']!r}: expected true or false"
    if _is_count(rotated) and rotated % 2:
        yield f"qk_rope_head_dim = {rotated}: rotary positions need an even number of channels"
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if groups not in (None, heads):
        yield f"num_key_value_heads = {groups} with latent attention: every head has keys of its own: set it to {heads}"
    if not all(_is_count(value) for value in sizes.values()):
        return
    for name, only in (("head_dim", rotated), ("qk_head_dim", sizes["qk_nope_head_dim"] + rotated)):
        if config.get(name) not in (None, only):
            yield f"{name} = {config[name]!r} contradicts qk_nope_head_dim and qk_rope_head_dim: it is {only}: remove it"


def _softmax_factor(config: Mapping[str, Any]) -> float:
    """What yarn multiplies the scale of the softmax by: the square of its magnitude for all channels."""
    rope = rope_settings(config)
    weight = rope.get("mscale_all_dim")
    return magnitude(rope["factor"], weight) ** 2 if rope["rope_type"] != "default" and weight else 1.0


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0

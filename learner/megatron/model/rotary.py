"""The angles of rotary positions, in the order of operations of transformers and of the engines, whose bits they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.config.rope import LLAMA3_FIELDS


@dataclass(frozen=True)
class Rotary:
    """The angles of rotary positions.

    Attributes:
        inverse_frequencies: [channels / 2] float32 in host memory, the angle per position of each pair of channels, radians.
        factor: what cosines and sines are multiplied by; 1 but for yarn.
    """

    inverse_frequencies: Tensor
    factor: float = 1.0

    @classmethod
    def of(cls, rope: Mapping[str, Any], channels: int) -> Rotary:
        """Computes the angles of the settings that learner.config.rope.computed_rope returns.

        Args:
            rope: the settings.
            channels: of a head, that are turned.
        """
        wavelengths = rope["rope_theta"] ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)
        inverse = 1.0 / wavelengths
        kind = rope["rope_type"]
        if kind == "linear":
            inverse = inverse / rope["factor"]
        elif kind == "llama3":
            inverse = _llama3(rope, inverse)
        elif kind == "yarn":
            inverse = _yarn(rope, wavelengths)
        return cls(inverse, rope["attention_factor"])


def _llama3(rope: Mapping[str, Any], inverse: Tensor) -> Tensor:
    """Divides the low frequencies by ``factor``, where the wavelength is longer than the original context; none where it is
    much shorter; and others by something in between (Llama 3.1's reference code).
    """
    factor, low, high, original = (rope[name] for name in LLAMA3_FIELDS)
    turns = original * inverse / (2 * math.pi)  # within the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse * (smooth + (1 - smooth) / factor)


def _yarn(rope: Mapping[str, Any], wavelengths: Tensor) -> Tensor:
    """Divides by ``factor`` the frequencies that turn less than beta_slow times within the original context, and none that
    turn more than beta_fast times; those between are mixed, linearly in the pair's number (2309.00071).
    """
    pairs = len(wavelengths)
    first, last = (_pair(rope, turns, pairs) for turns in (rope["beta_fast"], rope["beta_slow"]))
    if rope["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    if first == last:
        last += 0.001
    kept = 1 - ((torch.arange(pairs, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    return 1.0 / (rope["factor"] * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def _pair(rope: Mapping[str, Any], turns: float, pairs: int) -> float:
    """Number of the pair of channels, a fraction, that turns this many times within the original context."""
    positions = rope["original_max_position_embeddings"] / (turns * 2 * math.pi)
    return pairs * math.log(positions) / math.log(rope["rope_theta"])

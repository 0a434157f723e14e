"""How the tokens of a response are drawn, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters: the full softmax at a temperature, whose probabilities the learner can compute, or a part of it.

    Attributes:
        temperature: 0: greedy.
        max_new_tokens: largest number of tokens in a response.
        stop_ids: token ids that end a response.
        top_p: smallest set of likeliest tokens that has this probability; None: all.
        top_k: this many likeliest tokens; None: all.
        min_p: tokens with at least this share of the likeliest one's probability; None: all.
        stop: texts that end a response; the token that completes one is its last.
    """

    temperature: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Returns SGLang's ``sampling_params``, without the stop texts: our servers have no tokenizer to find them with."""
        truncation = {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
        return {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "stop_token_ids": list(self.stop_ids),
            **{name: value for name, value in truncation.items() if value is not None},
        }

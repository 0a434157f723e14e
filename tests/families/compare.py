"""Compares what the learner and the engine computed with transformers in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

UNDECIDED = 1e-4  # between the two largest logits: rounding may choose either


@dataclass(frozen=True)
class Greedy:
    """Greedy tokens of an engine against those of transformers.

    A prompt's tokens are compared up to the first that differs, which others follow from, or that is undecided.

    Attributes:
        equal: tokens that are transformers' too.
        compared: tokens that were compared.
        undecided: prompts whose comparison a token ended whose two largest logits are nearly equal.
        gap: how far the two largest logits are apart where a token differs, the largest of all; 0 if none does.
        distinct: different tokens among those of the engine.
    """

    equal: int
    compared: int
    undecided: int
    gap: float
    distinct: int


@torch.no_grad()
def largest_difference(model: Any, sequences: Sequence[Tensor], logits: Sequence[Tensor]) -> float:
    """The largest distance of the learner's logits of sequences from transformers'."""
    pairs = zip(sequences, logits, strict=True)
    return max(float((model(tokens[None]).logits[0, :-1] - mine).abs().max()) for tokens, mine in pairs)


@torch.no_grad()
def greedy(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Greedy:
    """Compares answers with the likeliest tokens of transformers, given the same tokens before them."""
    equal = compared = undecided = 0
    gap = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        two, indices = logits.topk(2)
        for place, token in enumerate(answer):
            apart = float(two[place, 0] - two[place, 1])
            if apart < UNDECIDED:
                undecided += 1
                break
            compared += 1
            if token != indices[place, 0]:
                gap = max(gap, apart)
                break
            equal += 1
    return Greedy(equal, compared, undecided, gap, len({token for answer in answers for token in answer}))

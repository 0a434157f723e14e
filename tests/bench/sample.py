"""The standard message of the intake bench: one group of 20,000 token ids, 80 KB."""

from __future__ import annotations

import numpy as np

from leeway.v1 import rollout_pb2 as pb
from rollout.client import new_group_id

RESPONSES, PROMPT, VOCABULARY = 8, 400, 150_000
TOKENS = 20_000


def sample_group(tokens: int = TOKENS, seed: int = 0) -> pb.Group:
    """Makes a group whose prompt and ``RESPONSES`` equal responses have ``tokens`` ids on the wire in all."""
    random = np.random.default_rng(seed)
    prompt = min(PROMPT, tokens // 10)
    length = (tokens - prompt) // RESPONSES
    ids = random.integers(0, VOCABULARY, (RESPONSES, length), dtype="<i4")
    return pb.Group(
        group_id=new_group_id(),
        prompt_id="bench/0",
        prompt_tokens=random.integers(0, VOCABULARY, prompt, dtype="<i4").tobytes(),
        task="bench",
        temperature=1.0,
        responses=[
            pb.Response(
                tokens=row.tobytes(),
                reward=float(number % 2),
                finish_reason=pb.FINISH_REASON_STOP,
                spans=[pb.Span(version=0, start=0, end=length)],
            )
            for number, row in enumerate(ids)
        ],
    )


def samples(count: int, tokens: int = TOKENS) -> list[pb.Group]:
    """Makes groups that differ in their ids only."""
    template = sample_group(tokens).SerializeToString()
    groups = [pb.Group.FromString(template) for _ in range(count)]
    for group in groups:
        group.group_id = new_group_id()
    return groups

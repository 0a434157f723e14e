"""Random responses of one or several segments, and a naive reading of what was packed, one loss token at a time."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from learner.batch.types import Batch, Sequence


class LossToken(NamedTuple):
    """A token that carries loss, as the model is given it: everything before it in its segment, and nothing else."""

    response: float  # its advantage, which no other response has
    context: tuple[int, ...]
    target: int
    version: int
    temperature: float


# For each response, tokens of context and of the rest of each of its segments.
SHAPES = st.lists(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=5), min_size=1, max_size=12
)


def responses(shapes: list[list[tuple[int, int]]], seed: int) -> list[Sequence]:
    """Makes responses whose tokens are all different, two to a group; about a third of their tokens is the environment's."""
    draw, tokens, made = random.Random(seed), 1000, []
    for number, shape in enumerate(shapes):
        versions: list[int] = []
        for context, own in shape:
            versions += [-1] * context
            versions += [draw.choice([-1, 3, 4]) for _ in range(own - 1)] + [draw.choice([3, 4])]
        version = torch.tensor(versions)
        lengths = tuple(context + own for context, own in shape)
        made.append(
            Sequence(
                torch.arange(tokens, tokens + len(version)),
                version >= 0,
                advantage=number + 1.0,
                weight=0.5 / (number + 1),
                temperature=draw.choice([0.5, 1.0]),
                version=version,
                group=number // 2,
                segments=lengths if len(shape) > 1 else (),
            )
        )
        tokens += len(version)
    return made


def expected(sequences: list[Sequence]) -> list[LossToken]:
    """Lists the loss tokens of responses, segment after segment."""
    found = []
    for sequence in sequences:
        start = 0
        for length in sequence.lengths:
            tokens = sequence.tokens.tolist()[start : start + length]
            for at in range(1, length):
                if sequence.generated[start + at]:
                    assert sequence.version is not None
                    version = int(sequence.version[start + at])
                    own = (sequence.advantage, tuple(tokens[:at]), tokens[at], version, sequence.temperature)
                    found.append(LossToken(*own))
            start += length
    return found


def read(batch: Batch) -> list[LossToken]:
    """Lists the loss tokens of a batch in its order, from the tokens between each one's bounds in ``cu_seqlens``."""
    found = []
    for micro in batch.micro_batches:
        tokens, bounds = micro.tokens[0].tolist(), micro.cu_seqlens.tolist()
        for number, index in enumerate(micro.loss_index.tolist()):
            start = max(bound for bound in bounds if bound <= index)
            assert int(micro.positions[0, index]) == index - start
            advantage = float(micro.advantage[micro.loss_row[number]])
            version = -2 if micro.version is None else int(micro.version[number])
            context, target = tuple(tokens[start : index + 1]), int(micro.loss_target[number])
            found.append(LossToken(advantage, context, target, version, float(micro.temperature[number])))
    return found

"""Turns groups, as they come over the wire, into sequences with advantages and weights."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np
import torch

from learner.batch.advantages import advantages
from learner.batch.routing import routed_experts
from learner.batch.types import Sequence
from learner.batch.weighting import DEFAULT, Weighting
from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of
from runtime.routing_record import RoutingShape

_NO_VERSION = -1  # marks tokens that no policy generated: the prompt's and the environment's
_WIRE, _IDS = np.dtype("<i4"), np.dtype(np.int64)  # parsed once, not for every response


def token_ids(buffer: bytes) -> torch.Tensor:
    """Converts little-endian int32 token ids, as the wire carries them, to [n] int64."""
    return torch.from_numpy(np.frombuffer(buffer, _WIRE).astype(_IDS))


def to_sequences(
    groups: Sequences[pb.Group], weighting: Weighting = DEFAULT, replayed: RoutingShape | None = None
) -> list[Sequence]:
    """Makes a sequence with advantage and weight of every response that ``weighting`` keeps; none of unscored ones.

    A group without contrast has A = 0 everywhere. It contributes nothing and is left out (unless ``keep`` is "all"), but its
    prompt, responses and tokens still count in the denominators of the weights. Of a group with fewer than two scored
    responses nothing is kept.

    Args:
        groups: as they came over the wire, valid.
        weighting: of the objective.
        replayed: mixture layers in which the engine's choice of experts is replayed; None: in none.
    """
    sequences: list[Sequence] = []
    scored = [[response for response in group.responses if not response.unscored] for group in groups]
    step_tokens = sum(map(_loss_tokens, scored)) if weighting.mean == "batch" else 0
    for index, (group, responses) in enumerate(zip(groups, scored, strict=True)):
        if len(responses) < 2:
            continue
        prompt = token_ids(group.prompt_tokens)
        rewards = [response.reward for response in responses]
        weight = _weight(responses, weighting, len(groups), step_tokens)
        contrast = min(rewards) != max(rewards)
        keep = weighting.keep == "all" or (weighting.keep == "informative" and contrast)
        values = advantages(rewards, weighting.advantage).tolist()
        for response, advantage in zip(responses, values, strict=True):
            if keep or advantage != 0.0:
                tokens, version, segments = _joined(prompt, response)
                generated, temperature = version != _NO_VERSION, group.temperature
                sequences.append(
                    Sequence(
                        tokens,
                        generated,
                        advantage,
                        weight,
                        temperature,
                        version=version,
                        group=index,
                        segments=segments,
                        routed=None if replayed is None else _routed(len(prompt), response, replayed),
                    )
                )
    return sequences


def _weight(responses: Sequences[pb.Response], weighting: Weighting, prompts: int, step_tokens: int) -> float:
    """Weight of each of a group's scored responses."""
    if weighting.mean == "batch":
        return 1.0 / max(1, step_tokens)
    if weighting.mean == "group":
        return 1.0 / (max(1, _loss_tokens(responses)) * prompts)
    return 1.0 / (len(responses) * prompts)


def _loss_tokens(responses: Sequences[pb.Response]) -> int:
    return sum(span.end - span.start for response in responses for span in spans_of(response))


def _routed(prompt: int, response: pb.Response, shape: RoutingShape) -> torch.Tensor:
    """Experts of all tokens of a response and of what they follow, in the order of ``_joined``."""
    if not response.segments:
        return routed_experts(prompt, response, shape)
    segments = response.segments[:]
    return torch.cat([routed_experts(len(one.context_tokens) // _WIRE.itemsize, one, shape) for one in segments])


def _joined(prompt: torch.Tensor, response: pb.Response) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Joins prompt and response, or the segments of a response.

    Returns:
        The tokens [n] int64, the version that generated each of them (-1: none) [n] int64, and the segments' lengths, which
        are empty for a response of one.
    """
    if response.segments:
        return _joined_segments(response)
    answer = token_ids(response.tokens)
    version = torch.full((len(prompt) + len(answer),), _NO_VERSION)
    for span in response.spans:
        version[len(prompt) + span.start : len(prompt) + span.end] = span.version
    return torch.cat([prompt, answer]), version, ()


def _joined_segments(response: pb.Response) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    segments = response.segments[:]
    tokens = token_ids(b"".join(part for one in segments for part in (one.context_tokens, one.tokens)))
    version = torch.full((len(tokens),), _NO_VERSION)
    lengths, start = [], 0
    for one in segments:
        own = start + len(one.context_tokens) // _WIRE.itemsize
        for span in one.spans:
            version[own + span.start : own + span.end] = span.version
        lengths.append(own + len(one.tokens) // _WIRE.itemsize - start)
        start += lengths[-1]
    return tokens, version, tuple(lengths)

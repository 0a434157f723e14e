"""Turns groups, as they come over the wire, into sequences with advantages and weights."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np
import torch

from learner.batch.advantages import advantages
from learner.batch.types import Sequence
from learner.batch.weighting import DEFAULT, Weighting
from leeway.v1 import rollout_pb2 as pb

_NO_VERSION = -1  # marks tokens that no policy generated: the prompt's and the environment's
_WIRE, _IDS = np.dtype("<i4"), np.dtype(np.int64)  # parsed once, not for every response


def token_ids(buffer: bytes) -> torch.Tensor:
    """Converts little-endian int32 token ids, as the wire carries them, to [n] int64."""
    return torch.from_numpy(np.frombuffer(buffer, _WIRE).astype(_IDS))


def to_sequences(groups: Sequences[pb.Group], weighting: Weighting = DEFAULT) -> list[Sequence]:
    """Makes a sequence with advantage and weight of every response that ``weighting`` keeps.

    A group without contrast has A = 0 everywhere. It contributes nothing and is left out (unless ``keep`` is "all"), but its
    prompt, responses and tokens still count in the denominators of the weights.
    """
    sequences: list[Sequence] = []
    step_tokens = sum(_loss_tokens(group) for group in groups)
    for index, group in enumerate(groups):
        prompt = token_ids(group.prompt_tokens)
        rewards = [response.reward for response in group.responses]
        weight = _weight(group, weighting, len(groups), step_tokens)
        contrast = min(rewards) != max(rewards)
        keep = weighting.keep == "all" or (weighting.keep == "informative" and contrast)
        values = advantages(rewards, weighting.advantage).tolist()
        for response, advantage in zip(group.responses, values, strict=True):
            if keep or advantage != 0.0:
                tokens, version = _joined(prompt, response)
                generated = version != _NO_VERSION
                sequences.append(
                    Sequence(tokens, generated, advantage, weight, group.temperature, version=version, group=index)
                )
    return sequences


def _weight(group: pb.Group, weighting: Weighting, prompts: int, step_tokens: int) -> float:
    if weighting.mean == "batch":
        return 1.0 / max(1, step_tokens)
    if weighting.mean == "group":
        return 1.0 / (max(1, _loss_tokens(group)) * prompts)
    return 1.0 / (len(group.responses) * prompts)


def _loss_tokens(group: pb.Group) -> int:
    return sum(span.end - span.start for response in group.responses for span in response.spans)


def _joined(prompt: torch.Tensor, response: pb.Response) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins prompt and response: the tokens, and the version that generated each of them (-1: none), both [n] int64."""
    answer = token_ids(response.tokens)
    version = torch.full((len(prompt) + len(answer),), _NO_VERSION)
    for span in response.spans:
        version[len(prompt) + span.start : len(prompt) + span.end] = span.version
    return torch.cat([prompt, answer]), version

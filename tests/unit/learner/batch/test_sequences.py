"""Groups of the wire become weighted sequences: tokens, loss masks, weights, and which responses are kept."""

import numpy as np
import pytest

from learner.batch.sequences import to_sequences, token_ids
from learner.batch.weighting import Weighting
from leeway.v1 import rollout_pb2 as pb


def ids(*tokens: int) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def group(
    rewards: list[float], spans: list[tuple[int, int, int]] | None = None, prompt: bytes = ids(14, 3, 11)
) -> pb.Group:
    responses = [
        pb.Response(
            tokens=ids(5, 6, 12),
            reward=reward,
            spans=[pb.Span(version=v, start=a, end=b) for v, a, b in spans or [(4, 0, 3)]],
        )
        for reward in rewards
    ]
    return pb.Group(prompt_tokens=prompt, responses=responses, temperature=1.0)


def test_tokens_are_little_endian_int32():
    assert token_ids(b"\x01\x00\x00\x00\x00\x01\x00\x00").tolist() == [1, 256]


def test_groups_become_weighted_sequences_with_all_prompts_in_the_denominator():
    sequences = to_sequences([group([1, 0]), group([1, 1])])
    assert [(s.advantage, s.weight) for s in sequences] == [(0.5, 0.25), (-0.5, 0.25)]
    assert sequences[0].tokens.tolist() == [14, 3, 11, 5, 6, 12]
    assert sequences[0].generated.tolist() == [False, False, False, True, True, True]


def test_weights_by_hand():
    """Two prompts, groups of 2 with rewards (1, 0) and (1, 1), responses of 3, 2, 3 and 3 loss tokens."""
    groups = [group([1, 0]), group([1, 1])]
    del groups[0].responses[1].spans[:]
    groups[0].responses[1].spans.append(pb.Span(version=4, start=0, end=2))
    for mean, weight in {"response": 1 / 4, "sum": 1 / 4, "group": 1 / (5 * 2), "batch": 1 / 11}.items():
        sequences = to_sequences(groups, Weighting(mean=mean))  # type: ignore[arg-type]
        assert [s.weight for s in sequences] == pytest.approx([weight] * 2), mean


def test_what_is_kept():
    groups = [group([0, 1, 2]), group([1, 1])]
    assert [s.advantage for s in to_sequences(groups, Weighting())] == [-1, 1]
    assert [s.advantage for s in to_sequences(groups, Weighting(keep="informative"))] == [-1, 0, 1]
    assert [s.advantage for s in to_sequences(groups, Weighting(keep="all"))] == [-1, 0, 1, 0, 0]


def test_tokens_outside_spans_carry_no_loss():
    sequences = to_sequences([group([1, 0], spans=[(4, 0, 1), (5, 2, 3)])])
    assert sequences[0].generated.tolist() == [False, False, False, True, False, True]

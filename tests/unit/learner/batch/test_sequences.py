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


def segment(context: bytes, tokens: bytes, *spans: tuple[int, int, int]) -> pb.Segment:
    return pb.Segment(
        context_tokens=context, tokens=tokens, spans=[pb.Span(version=v, start=a, end=b) for v, a, b in spans]
    )


def test_a_response_of_segments_is_one_sequence_by_hand():
    """A compaction: the second segment begins with other tokens, among them none of the group's prompt."""
    first = segment(ids(14, 3), ids(5, 6, 7), (4, 0, 1), (5, 2, 3))
    second = segment(ids(9), ids(8), (5, 0, 1))
    mixed = group([0])
    mixed.responses.append(pb.Response(segments=[first, second], reward=1))
    short, long = to_sequences([mixed])
    assert (short.segments, short.lengths) == ((), (6,))
    assert long.tokens.tolist() == [14, 3, 5, 6, 7, 9, 8]
    assert long.generated.tolist() == [False, False, True, False, True, False, True]
    assert long.version is not None
    assert long.version[long.generated].tolist() == [4, 5, 5]
    assert (long.segments, long.lengths, long.advantage, long.weight) == ((5, 2), (5, 2), 0.5, 0.5)
    # Of 6 loss tokens, 3 are in the segments: they count in every denominator of tokens.
    for mean, weight in {"response": 1 / 2, "sum": 1 / 2, "group": 1 / 6, "batch": 1 / 6}.items():
        weights = [s.weight for s in to_sequences([mixed], Weighting(mean=mean))]  # type: ignore[arg-type]
        assert weights == pytest.approx([weight] * 2), mean


def failed(one: pb.Group, *indices: int) -> pb.Group:
    """The group with some of its responses judged by nobody; what stands in their place as a reward must not be read."""
    for index in indices:
        one.responses[index].unscored = "reward_timeout"
        one.responses[index].reward = 1e9
    return one


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ("mean", [0.5, -0.5, -0.5, 0.5]),
        ("std", [1, -1, -1, 1]),
        ("std_unbiased", [0.75**0.5, -(0.75**0.5), -(0.75**0.5), 0.75**0.5]),
        ("leave_one_out", [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
    ],
)
def test_a_judge_that_fails_for_a_third_changes_the_others_through_the_mean_only(advantage: str, expected: list[float]):
    """Rewards 1, 0, -, 0, -, 1: the mean is 1/2 of four, not 1/3 of six, and each of the four weighs a quarter."""
    kept = to_sequences([failed(group([1, 0, 0, 0, 0, 1]), 2, 4)], Weighting(advantage=advantage))  # type: ignore[arg-type]
    assert [s.advantage for s in kept] == pytest.approx(expected, rel=1e-5)
    assert [s.weight for s in kept] == [1 / 4] * 4
    alone = to_sequences([group([1, 0, 0, 1])], Weighting(advantage=advantage))  # type: ignore[arg-type]
    assert [(s.advantage, s.weight) for s in alone] == [(s.advantage, s.weight) for s in kept]


def test_unscored_tokens_are_in_no_denominator():
    """Two prompts; three scored responses of 3 loss tokens in the first, two in the second, which have no contrast."""
    groups = [failed(group([1, 0, 0, 1]), 3), failed(group([1, 1, 1]), 0)]
    for mean, weight in {"response": 1 / 6, "sum": 1 / 6, "group": 1 / (9 * 2), "batch": 1 / 15}.items():
        weights = [s.weight for s in to_sequences(groups, Weighting(mean=mean))]  # type: ignore[arg-type]
        assert weights == pytest.approx([weight] * 3), mean


@pytest.mark.parametrize("keep", ["effective", "informative", "all"])
def test_fewer_than_two_scored_responses_give_nothing_but_their_prompt_counts(keep: str):
    weighting = Weighting(keep=keep)  # type: ignore[arg-type]
    useless = [failed(group([1, 0]), 1), failed(group([1, 0]), 0, 1)]
    assert to_sequences(useless, weighting) == []
    kept = to_sequences([*useless, group([1, 0])], weighting)
    assert [(s.advantage, s.weight, s.group) for s in kept] == [(0.5, 1 / 6, 2), (-0.5, 1 / 6, 2)]


def test_an_unscored_response_may_be_without_tokens():
    one = group([1, 0, 0])
    one.responses[2].CopyFrom(pb.Response(unscored="agent_crashed"))
    assert len(to_sequences([one], Weighting(keep="all"))) == 2

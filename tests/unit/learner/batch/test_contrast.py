"""Which groups count towards a step, and what is left of one without its tokens."""

import pytest

from learner.batch.contrast import clear_tokens, counts
from leeway.v1 import rollout_pb2 as pb


def group(*rewards: float | None) -> pb.Group:
    """A group of these rewards; None: nobody judged the response."""
    responses = [
        pb.Response(reward=reward or 0.0, unscored="" if reward is not None else "reward_timeout") for reward in rewards
    ]
    return pb.Group(responses=responses)


@pytest.mark.parametrize(
    ("rewards", "contrast", "scored"),
    [
        ((0.0, 1.0), True, True),
        ((1.0, 1.0, 1.0), False, True),
        ((1.0, 1.0, None), False, True),
        ((0.0, 1.0, None), True, True),
        ((0.5, None, None), False, False),
        ((None, None), False, False),
    ],
)
def test_what_counts_is_what_the_objective_trains_something_of(rewards, contrast: bool, scored: bool):
    one = group(*rewards)
    assert (counts(one, "effective"), counts(one, "informative"), counts(one, "all")) == (contrast, contrast, scored)


def test_without_tokens_a_group_keeps_all_that_statistics_read():
    record = pb.RoutedExperts(layers=[0], top_k=4, experts=99, ids=b"9876")
    span = pb.Span(version=3, start=0, end=1)
    segment = pb.Segment(context_tokens=b"1234", tokens=b"5678", spans=[span], routed_experts=record)
    one = pb.Group(
        group_id="g", prompt_id="p", prompt_tokens=b"1234", task="sort", metadata={"traceparent": "00-1"},
        responses=[
            pb.Response(
                tokens=b"5678", reward=0.5, spans=[pb.Span(version=2, start=0, end=1)], reward_parts={"format": 1.0},
                finish_reason=pb.FINISH_REASON_LENGTH, routed_experts=record,
            ),
            pb.Response(segments=[segment], reward=0.5),
        ],
    )  # fmt: skip
    clear_tokens(one)
    assert b"1234" not in one.SerializeToString()
    assert b"5678" not in one.SerializeToString()
    assert b"9876" not in one.SerializeToString()
    first, second = one.responses
    assert (one.group_id, one.prompt_id, one.task, one.metadata["traceparent"]) == ("g", "p", "sort", "00-1")
    assert (first.reward, first.spans[0].version, first.reward_parts["format"]) == (0.5, 2, 1.0)
    assert first.finish_reason == pb.FINISH_REASON_LENGTH
    assert second.segments[0].spans[0].version == 3

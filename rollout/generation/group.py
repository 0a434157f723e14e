"""Builds the wire's groups from what became of their responses."""

from __future__ import annotations

import time
from collections.abc import Sequence

from leeway.v1 import rollout_pb2
from rollout.client import encode_ids, new_group_id
from rollout.engine.response import VersionSpan
from rollout.engine.sampling import Sampling
from rollout.generation.outcome import ResponseOutcome
from runtime.response_spans import spans_of

_FINISH = {
    "stop": rollout_pb2.FINISH_REASON_STOP,
    "length": rollout_pb2.FINISH_REASON_LENGTH,
    "abort": rollout_pb2.FINISH_REASON_ABORT,
}


def make_group(
    task: str, prompt_id: str, prompt_ids: Sequence[int], outcomes: Sequence[ResponseOutcome], sampling: Sampling
) -> rollout_pb2.Group:
    """Returns a group with a new id, created now.

    A response of one sequence that begins with the group's prompt is sent as such, any other one as segments.

    Args:
        task: the task's label.
        prompt_id: what was asked, by name.
        prompt_ids: its token ids.
        outcomes: every response, in any order.
        sampling: how tokens were drawn.
    """
    group = rollout_pb2.Group(
        group_id=new_group_id(),
        prompt_id=prompt_id,
        prompt_tokens=encode_ids(prompt_ids),
        task=task,
        responses=[_response(outcome, prompt_ids) for outcome in outcomes],
        temperature=sampling.temperature,
        sampling=_truncation(sampling),
    )
    group.created_at.FromNanoseconds(time.time_ns())
    return group


def generated_tokens(response: rollout_pb2.Response) -> int:
    """Returns the number of tokens of a response that the policy generated, in all its segments."""
    return sum(span.end - span.start for span in spans_of(response))


def drop_records(group: rollout_pb2.Group) -> int:
    """Removes the records of experts from a group, and returns the number of responses that had any."""
    dropped = 0
    for response in group.responses:
        having = [one for one in (response, *response.segments) if one.HasField("routed_experts")]
        for one in having:
            one.ClearField("routed_experts")
        dropped += bool(having)
    return dropped


def _response(outcome: ResponseOutcome, prompt_ids: Sequence[int]) -> rollout_pb2.Response:
    response = rollout_pb2.Response(finish_reason=_FINISH[outcome.finish], unscored=outcome.unscored)
    if outcome.score is not None:
        response.reward = outcome.score.reward
        response.reward_parts.update(outcome.score.parts)
    if len(outcome.segments) == 1 and outcome.segments[0].context == list(prompt_ids):
        response.tokens = encode_ids(outcome.segments[0].tokens)
        response.spans.extend(_spans(outcome.segments[0].spans))
        if outcome.segments[0].routed is not None:
            response.routed_experts.CopyFrom(outcome.segments[0].routed.message())
        return response
    for segment in outcome.segments:
        response.segments.add(
            context_tokens=encode_ids(segment.context),
            tokens=encode_ids(segment.tokens),
            spans=_spans(segment.spans),
            routed_experts=None if segment.routed is None else segment.routed.message(),
        )
    return response


def _spans(spans: Sequence[VersionSpan]) -> list[rollout_pb2.Span]:
    return [rollout_pb2.Span(version=span.version, start=span.start, end=span.end) for span in spans]


def _truncation(sampling: Sampling) -> rollout_pb2.Sampling | None:
    wanted = {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p}
    truncated = {name: value for name, value in wanted.items() if value is not None}
    return rollout_pb2.Sampling(**truncated) if truncated else None

"""Builds the wire's groups from engine responses and their scores."""

from __future__ import annotations

import time
from collections.abc import Sequence

from leeway.v1 import rollout_pb2
from rollout.client import encode_ids, new_group_id
from rollout.engine.sglang import Response
from rollout.tasks import Prompt
from rollout.tasks.score import Score

_FINISH = {
    "stop": rollout_pb2.FINISH_REASON_STOP,
    "length": rollout_pb2.FINISH_REASON_LENGTH,
    "abort": rollout_pb2.FINISH_REASON_ABORT,
}


def make_group(
    task: str, prompt: Prompt, prompt_ids: Sequence[int], scored: Sequence[tuple[Response, Score]], temperature: float
) -> rollout_pb2.Group:
    """Returns a group with a new id, created now.

    Args:
        task: the task's name.
        prompt: what was asked.
        prompt_ids: the prompt's token ids.
        scored: every response with its score, in any order.
        temperature: the temperature at which the responses were sampled.
    """
    group = rollout_pb2.Group(
        group_id=new_group_id(),
        prompt_id=prompt.prompt_id,
        prompt_tokens=encode_ids(prompt_ids),
        task=task,
        responses=[_response(response, score) for response, score in scored],
        temperature=temperature,
    )
    group.created_at.FromNanoseconds(time.time_ns())
    return group


def _response(response: Response, score: Score) -> rollout_pb2.Response:
    return rollout_pb2.Response(
        tokens=encode_ids(response.tokens),
        reward=score.reward,
        finish_reason=_FINISH[response.finish],
        spans=[rollout_pb2.Span(version=span.version, start=span.start, end=span.end) for span in response.spans],
        reward_parts=score.parts,
    )

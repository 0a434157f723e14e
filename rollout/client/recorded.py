"""Turns recorded groups into groups of the contract again."""

from __future__ import annotations

import time

from leeway.v1 import rollout_pb2
from rollout.client.wire import encode_ids
from runtime.group_ids import new_group_id
from runtime.rollout_record import RecordedGroup, RecordedResponse, RecordedSegment, RecordError, unpack_ids

_FINISH = {
    "stop": rollout_pb2.FINISH_REASON_STOP,
    "length": rollout_pb2.FINISH_REASON_LENGTH,
    "abort": rollout_pb2.FINISH_REASON_ABORT,
}


def group_of(record: RecordedGroup, new_id: bool) -> rollout_pb2.Group:
    """Returns a recorded group as it was submitted.

    Args:
        record: the recorded group.
        new_id: it gets a new id and is created now: another group with the same content. False: it is the same group, which a
            gateway accepts once.

    Raises:
        RecordError: it was withdrawn, or its token ids were left out.
    """
    if record.withdrawn:
        raise RecordError(f"group {record.group_id}: it was withdrawn ({record.withdrawn})")
    if record.prompt_tokens is None:
        raise RecordError(f"group {record.group_id}: the token ids of its prompt are left out ({_why(record)})")
    sampling = record.sampling
    group = rollout_pb2.Group(
        group_id=new_group_id() if new_id else record.group_id,
        prompt_id=record.prompt_id,
        prompt_tokens=encode_ids(unpack_ids(record.prompt_tokens)),
        task=record.task,
        responses=[_response(record, number) for number in range(len(record.responses))],
        temperature=sampling.temperature,
    )
    wanted = {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p}
    if truncated := {name: value for name, value in wanted.items() if value is not None}:
        group.sampling.MergeFrom(rollout_pb2.Sampling(**truncated))
    group.created_at.FromNanoseconds(time.time_ns() if new_id else int(record.time * 1e9))
    return group


def _response(record: RecordedGroup, number: int) -> rollout_pb2.Response:
    one = record.responses[number]
    response = rollout_pb2.Response(
        finish_reason=_FINISH.get(one.finish, rollout_pb2.FINISH_REASON_UNSPECIFIED), unscored=one.unscored
    )
    if one.reward is not None:
        response.reward = one.reward
        response.reward_parts.update(one.parts)
    sent = [segment for segment in one.segments if segment.spans]  # the others have a text alone
    if any(segment.tokens is None for segment in sent):
        why = one.left_out or "?"
        raise RecordError(f"group {record.group_id}: the token ids of its response {number + 1} are left out ({why})")
    if len(sent) == 1 and sent[0].context is None:
        response.tokens = encode_ids(unpack_ids(sent[0].tokens or ""))
        response.spans.extend(_spans(sent[0]))
        return response
    for segment in sent:
        response.segments.add(
            context_tokens=encode_ids(unpack_ids(segment.context or record.prompt_tokens or "")),
            tokens=encode_ids(unpack_ids(segment.tokens or "")),
            spans=_spans(segment),
        )
    return response


def _spans(segment: RecordedSegment) -> list[rollout_pb2.Span]:
    return [rollout_pb2.Span(version=span.version, start=span.start, end=span.end) for span in segment.spans]


def _why(record: RecordedGroup) -> str:
    reasons: list[RecordedResponse] = [one for one in record.responses if one.left_out]
    return "masked" if record.masked else reasons[0].left_out if reasons else "?"

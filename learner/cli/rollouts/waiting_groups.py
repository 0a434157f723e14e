"""Groups that wait in a run's queue, shown as recorded groups: text where a tokenizer is at hand, else token ids."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from learner.cli.run.run_directory import RunError
from leeway.v1 import operator_pb2, rollout_pb2
from runtime.rollout_record import (
    RecordedGroup,
    RecordedResponse,
    RecordedSampling,
    RecordedSegment,
    RecordedSpan,
    RecordedTurn,
    pack_ids,
)

Decode = Callable[[Sequence[int]], str]
_FINISH = {
    rollout_pb2.FINISH_REASON_STOP: "stop",
    rollout_pb2.FINISH_REASON_LENGTH: "length",
    rollout_pb2.FINISH_REASON_ABORT: "abort",
}


def decoder(model: Path | None) -> Decode:
    """Returns what turns token ids into text: the tokenizer of a model's directory, or without one the ids themselves.

    Raises:
        RunError: there is no tokenizer.json that can be read.
    """
    if model is None:
        return lambda ids: " ".join(map(str, ids))
    from tokenizers import Tokenizer

    path = model / "tokenizer.json" if model.is_dir() else model
    try:
        tokenizer: Any = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise for a malformed file
        raise RunError(f"--tokenizer {model}: {path} cannot be read as a tokenizer: {error}") from error
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)


def recorded(listed: operator_pb2.ListedGroup, decode: Decode) -> RecordedGroup:
    """Returns a waiting group as a worker would have recorded it; its worker is the fleet, its time when it was begun."""
    group = listed.group
    prompt = _ids(group.prompt_tokens)
    sampling = group.sampling if group.HasField("sampling") else None
    return RecordedGroup(
        group_id=group.group_id,
        time=group.created_at.ToNanoseconds() / 1e9 if group.HasField("created_at") else 0.0,
        worker=listed.fleet,
        task=group.task,
        prompt_id=group.prompt_id,
        prompt=(RecordedTurn(role="prompt", text=decode(prompt)),),
        prompt_tokens=pack_ids(prompt),
        prompt_length=len(prompt),
        responses=tuple(_response(one, decode) for one in group.responses),
        sampling=RecordedSampling(
            temperature=group.temperature,
            top_p=sampling.top_p if sampling is not None and sampling.HasField("top_p") else None,
            top_k=sampling.top_k if sampling is not None and sampling.HasField("top_k") else None,
            min_p=sampling.min_p if sampling is not None and sampling.HasField("min_p") else None,
        ),
    )


def _response(response: rollout_pb2.Response, decode: Decode) -> RecordedResponse:
    segments = response.segments or [rollout_pb2.Segment(tokens=response.tokens, spans=response.spans)]
    return RecordedResponse(
        segments=tuple(_segment(one, decode) for one in segments),
        finish=_FINISH.get(response.finish_reason, "stop"),
        reward=None if response.unscored else response.reward,
        parts=dict(response.reward_parts),
        unscored=response.unscored,
    )


def _segment(segment: rollout_pb2.Segment, decode: Decode) -> RecordedSegment:
    context, ids = _ids(segment.context_tokens), _ids(segment.tokens)
    turns, at = [RecordedTurn(role="context", text=decode(context))] if context else [], 0
    for span in segment.spans:
        if span.start > at:
            turns.append(RecordedTurn(role="environment", text=decode(ids[at : span.start])))
        turns.append(RecordedTurn(role="assistant", text=decode(ids[span.start : span.end])))
        at = span.end
    if at < len(ids):
        turns.append(RecordedTurn(role="environment", text=decode(ids[at:])))
    return RecordedSegment(
        context=pack_ids(context) if context else None,
        context_length=len(context),
        tokens=pack_ids(ids),
        length=len(ids),
        spans=tuple(RecordedSpan(version=one.version, start=one.start, end=one.end) for one in segment.spans),
        turns=tuple(turns),
    )


def _ids(packed: bytes) -> tuple[int, ...]:
    """Token ids of the contract: little-endian int32."""
    return struct.unpack(f"<{len(packed) // 4}i", packed[: len(packed) // 4 * 4])

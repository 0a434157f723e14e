"""Turns a group that a worker has made into what is recorded of it, secrets masked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from leeway.v1 import rollout_pb2
from rollout.client import new_group_id
from rollout.config import WorkerConfig
from rollout.data.chat_message import ChatRequestError, canonical
from rollout.episodes.record import SegmentRecord
from rollout.episodes.transcript import turn_of
from rollout.generation.generated import MadeGroup
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.telemetry.secret_mask import SecretMask
from runtime.rollout_record import (
    LeftOut,
    RecordedCall,
    RecordedGroup,
    RecordedResponse,
    RecordedSampling,
    RecordedSegment,
    RecordedSpan,
    RecordedTurn,
    pack_ids,
)

Turns = tuple[RecordedTurn, ...]

_MESSAGE_CHARACTERS = 2000  # of why a response has no reward


class GroupRecorder:
    """Makes records.

    Args:
        config: the worker's settings.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._mask = SecretMask(config.record.mask)

    def record(self, made: MadeGroup) -> RecordedGroup:
        """Returns a group as it is recorded, whole."""
        asked = _prompt_turns(made.asked.prompt)
        prompt, masked = self._masked_turns(asked)
        name, found = self._mask.apply(made.asked.prompt.prompt_id)
        masked += found
        # Every response begins with the prompt: where that is a secret, so are the token ids of all of them.
        left_out: LeftOut = "masked" if masked else "" if self._config.record.tokens else "off"
        submitted = made.group if isinstance(made.group, rollout_pb2.Group) else None
        sampling = self._config.sampling
        return RecordedGroup(
            group_id=submitted.group_id if submitted is not None else new_group_id(),
            time=round(time.time(), 3),
            worker=self._config.name,
            task=self._config.task[made.asked.task].label,
            prompt_id=name,
            prompt=prompt,
            prompt_tokens=None if left_out else pack_ids(made.prompt_ids),
            prompt_length=len(made.prompt_ids),
            responses=tuple(self._response(one, asked, made.prompt_ids, left_out) for one in made.outcomes),
            sampling=RecordedSampling(
                temperature=sampling.temperature,
                max_new_tokens=sampling.max_new_tokens,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
            ),
            withdrawn=made.group.reason if isinstance(made.group, Withdrawal) else "",
            masked=masked,
        )

    def _response(
        self, outcome: ResponseOutcome, asked: Turns, prompt_ids: Sequence[int], left_out: LeftOut
    ) -> RecordedResponse:
        message, masked = self._mask.apply(outcome.message)
        said: Turns = (RecordedTurn(role="assistant", text=outcome.text),) if outcome.text else ()
        # What was not sent has no segment, but perhaps a text.
        sequences = outcome.segments or ([SegmentRecord([], [], [], "first", said)] if said else [])
        shown = []
        for one in sequences:
            turns, found = self._masked_turns(_without_prompt(one.turns or said, one, asked, prompt_ids))
            shown.append(turns)
            masked += found
        if masked and not left_out:
            left_out = "masked"
        segments = [
            _segment(one, turns, prompt_ids, bool(left_out)) for one, turns in zip(sequences, shown, strict=True)
        ]
        score = outcome.score
        return RecordedResponse(
            segments=tuple(segments),
            finish=outcome.finish,
            reward=None if score is None else score.reward,
            parts={} if score is None else {self._mask.apply(name)[0]: part for name, part in score.parts.items()},
            unscored=outcome.unscored,
            message=message[:_MESSAGE_CHARACTERS],
            masked=masked,
            left_out=left_out,
        )

    def _masked_turns(self, turns: Sequence[RecordedTurn]) -> tuple[Turns, int]:
        found = 0
        made = []

        def clean(text: str) -> str:
            nonlocal found
            text, count = self._mask.apply(text)
            found += count
            return text

        for turn in turns:
            calls = tuple(RecordedCall(name=clean(one.name), arguments=clean(one.arguments)) for one in turn.calls)
            made.append(
                RecordedTurn(role=clean(turn.role), text=clean(turn.text), reasoning=clean(turn.reasoning), calls=calls)
            )
        return tuple(made), found


def _prompt_turns(prompt: Prompt) -> Turns:
    if prompt.text:
        return (RecordedTurn(role="prompt", text=prompt.text),)
    try:
        return tuple(map(turn_of, canonical(prompt.messages)))
    except ChatRequestError:  # an agent of its own may read what no template could
        return tuple(_loose_turn(message) for message in prompt.messages)


def _loose_turn(message: Mapping[str, Any]) -> RecordedTurn:
    return RecordedTurn(
        role=str(message.get("role")), text=json.dumps(message.get("content"), ensure_ascii=False, default=repr)
    )


def _without_prompt(turns: Turns, segment: SegmentRecord, asked: Turns, prompt_ids: Sequence[int]) -> Turns:
    """Leaves out the prompt with which a conversation begins: the group has it already."""
    if turns[: len(asked)] == asked:
        return turns[len(asked) :]
    if turns[:1] == tuple(RecordedTurn(role="user", text=turn.text) for turn in asked):  # text, asked as a conversation
        return turns[1:]
    rendered = bool(turns) and turns[0].role == "context" and segment.context == list(prompt_ids)
    return turns[1:] if rendered else turns


def _segment(segment: SegmentRecord, turns: Turns, prompt_ids: Sequence[int], left_out: bool) -> RecordedSegment:
    repeats = segment.context == list(prompt_ids)
    return RecordedSegment(
        context=None if repeats or left_out else pack_ids(segment.context),
        context_length=len(segment.context),
        tokens=None if left_out else pack_ids(segment.tokens),
        length=len(segment.tokens),
        spans=tuple(RecordedSpan(version=one.version, start=one.start, end=one.end) for one in segment.spans),
        turns=turns,
    )

"""Makes a recorded group short enough: without token ids first, then without the middle of long texts."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.rollout_record import RecordedCall, RecordedGroup, RecordedResponse, RecordedTurn

_TURN_CHARACTERS = 64  # that a turn is worth at least; where there is less for each, the last ones are left out
_ROLE_CHARACTERS = 32


def limited_line(group: RecordedGroup, limit: int) -> bytes | None:
    """Returns a group as a line of JSON of at most ``limit`` bytes, its newline included.

    What is left out is marked: token ids by ``left_out``, text by ``cut``. None where its numbers alone are too long.
    """
    line = group.line()
    if len(line) <= limit:
        return line
    group = group.model_copy(update={"prompt_tokens": None, "responses": tuple(map(_without_tokens, group.responses))})
    line = group.line()
    characters = limit
    while len(line) > limit and characters:
        characters //= 2  # a character has one to six bytes in JSON
        line = _shortened(group, characters).line()
    return line if len(line) <= limit else None


def _without_tokens(response: RecordedResponse) -> RecordedResponse:
    segments = tuple(one.model_copy(update={"context": None, "tokens": None}) for one in response.segments)
    return response.model_copy(update={"segments": segments, "left_out": response.left_out or "size"})


def _shortened(group: RecordedGroup, characters: int) -> RecordedGroup:
    """Cuts texts so that those of the group have about so many characters in all."""
    conversations = [group.prompt, *(segment.turns for one in group.responses for segment in one.segments)]
    most = characters // _TURN_CHARACTERS // max(1, len(conversations))
    texts = sum(2 + 2 * len(turn.calls) for turns in conversations for turn in turns[:most])
    each = characters // max(1, texts)
    responses = tuple(
        one.model_copy(
            update={
                "message": one.message[:each],
                "segments": tuple(
                    part.model_copy(update={"turns": _short(part.turns, most, each)}) for part in one.segments
                ),
            }
        )
        for one in group.responses
    )
    return group.model_copy(update={"prompt": _short(group.prompt, most, each), "responses": responses})


def _short(turns: Sequence[RecordedTurn], most: int, characters: int) -> tuple[RecordedTurn, ...]:
    kept = [_short_turn(turn, characters) for turn in turns[:most]]
    if len(turns) > most:
        kept.append(RecordedTurn(role="left out", cut=max(1, sum(map(_length, turns[most:])))))
    return tuple(kept)


def _length(turn: RecordedTurn) -> int:
    return len(turn.text) + len(turn.reasoning) + sum(len(one.name) + len(one.arguments) for one in turn.calls)


def _short_turn(turn: RecordedTurn, characters: int) -> RecordedTurn:
    calls = tuple(
        RecordedCall(name=_middle_cut(one.name, characters), arguments=_middle_cut(one.arguments, characters))
        for one in turn.calls
    )
    made = RecordedTurn(
        role=turn.role[:_ROLE_CHARACTERS],
        text=_middle_cut(turn.text, characters),
        reasoning=_middle_cut(turn.reasoning, characters),
        calls=calls,
    )
    return made.model_copy(update={"cut": max(0, _length(turn) - _length(made))})


def _middle_cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    head = characters // 2
    return f"{text[:head]}…{text[len(text) - (characters - head) :]}"

"""Records that would be too long: what goes first, and that it is said."""

from __future__ import annotations

import pytest

from rollout.telemetry.record_limit import limited_line
from runtime.rollout_record import RecordedCall, RecordedGroup, RecordedSpan, RecordedTurn
from tests.tools.recorded import group, response


def test_token_ids_go_first(tmp_path: object):
    made = group(responses=[response("a" * 1000)] * 2)
    assert limited_line(made, 1 << 20) == made.line()
    line = limited_line(made, 9000)
    assert line is not None
    read = RecordedGroup.parse(line)
    assert [one.turns for one in read.responses] == [one.turns for one in made.responses]
    assert [(one.left_out, one.segments[0].tokens, one.segments[0].length) for one in read.responses] == [
        ("size", None, 1000)
    ] * 2
    assert read.prompt_tokens is None


@pytest.mark.parametrize("letter", ["a", "\u4e2d", "\x01"])
def test_then_the_middle_of_long_texts_and_the_beginning_and_the_end_stay(letter: str):
    calls = (RecordedCall(name="f", arguments=letter * 50_000),)
    long = RecordedTurn(role="assistant", text=f"BEGIN{letter * 100_000}END", calls=calls)
    made = group(responses=[response("1", turns=(long,)), response("short answer")])
    line = limited_line(made, 20_000)
    assert line is not None
    assert 2_000 < len(line) <= 20_000
    cut, whole = RecordedGroup.parse(line).responses
    (turn,) = cut.turns
    assert turn.text.startswith("BEGIN")
    assert turn.text.endswith("END")
    assert turn.cut == 150_000 + 8 - len(turn.text) - len(turn.calls[0].arguments)
    assert whole.turns[0].text == "short answer"
    assert whole.turns[0].cut == 0


def test_of_a_conversation_of_very_many_turns_the_last_ones_go_and_are_counted():
    turns = tuple(RecordedTurn(role="user", text="hello there") for _ in range(5000))
    line = limited_line(group(responses=[response("1", turns=turns)] * 2), 20_000)
    assert line is not None
    for one in RecordedGroup.parse(line).responses:
        assert one.turns[-1].role == "left out"
        kept = sum(len(turn.text) + turn.cut for turn in one.turns)
        assert 5000 * 11 <= kept <= 5000 * 11 + 2 * len(one.turns)  # each cut text has an ellipsis


def test_a_group_whose_numbers_alone_are_too_long_is_given_up():
    spans = tuple(RecordedSpan(version=1, start=n, end=n + 1) for n in range(4000))
    one = response("1")
    one = one.model_copy(update={"segments": (one.segments[0].model_copy(update={"spans": spans}),)})
    assert limited_line(group(responses=[one]), 8192) is None

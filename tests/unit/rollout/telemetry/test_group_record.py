"""What is recorded of a group: texts, turns, token ids, and nothing that reveals a secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from rollout.config import WorkerConfig
from rollout.engine.response import VersionSpan
from rollout.engine.sampling import Sampling
from rollout.episodes.record import SegmentRecord
from rollout.episodes.transcript import turn_of
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.group import make_group
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score
from rollout.telemetry.group_record import GroupRecorder
from runtime.rollout_record import RecordedGroup, RecordedSpan, RecordedTurn, unpack_ids

SAMPLING = Sampling(0.7, 16, (9,), top_p=0.95)
PLACES = {"gateway": "g:1", "model": "/m", "state_dir": "/r/state", "log_dir": "/l", "allowed_uris": ["file:///w"]}
IDS = [1, 2, 3]
SECRET = "sk-abcdefghijklmnopqrstuvwx"


def outcome(text: str, tokens: Sequence[int] = (4, 9), **values: Any) -> ResponseOutcome:
    spans = [VersionSpan(3, 0, 1), VersionSpan(4, 1, len(tokens))]
    segment = SegmentRecord(IDS, list(tokens), spans, "first")
    return ResponseOutcome([segment], "stop", values.pop("score", Score(1.0, {"exact": 1.0})), text=text, **values)


def recorder(tokens: bool = True) -> GroupRecorder:
    sampling = {"temperature": 0.7, "max_new_tokens": 16, "top_p": 0.95}
    values = {**PLACES, "name": "worker-3", "sampling": sampling, "record": {"tokens": tokens}}
    return GroupRecorder(WorkerConfig.parse(values, "test"))


def recorded(outcomes: Sequence[ResponseOutcome], prompt: Prompt | None = None, tokens: bool = True) -> RecordedGroup:
    prompt = prompt or Prompt("sort:312", "312=", data="never recorded")
    group = make_group("sort", prompt.prompt_id, IDS, outcomes, SAMPLING)
    made = recorder(tokens).record(MadeGroup(AskedPrompt(0, 7, prompt), IDS, outcomes, group))
    assert made.group_id == group.group_id
    return RecordedGroup.parse(made.line())


def test_a_group_of_one_turn_responses_is_kept_with_its_tokens_spans_parts_and_sampling():
    failed = outcome("12", score=None, unscored="reward_error", message="the judge said no")
    nothing = ResponseOutcome([], "abort", None, "aborted", "full", text="1")
    made = recorded([outcome("123"), failed, nothing])
    assert (made.worker, made.task, made.prompt_id) == ("worker-3", "sort", "sort:312")
    assert [(turn.role, turn.text) for turn in made.prompt] == [("prompt", "312=")]
    assert (unpack_ids(made.prompt_tokens or ""), made.prompt_length) == (IDS, 3)
    assert (made.sampling.temperature, made.sampling.max_new_tokens, made.sampling.top_p) == (0.7, 16, 0.95)
    first, second, third = made.responses
    assert (first.reward, first.parts, first.finish) == (1.0, {"exact": 1.0}, "stop")
    (segment,) = first.segments
    assert unpack_ids(segment.tokens or "") == [4, 9]
    assert (segment.context, segment.context_length) == (None, 3)  # the group's prompt
    assert segment.spans == (RecordedSpan(version=3, start=0, end=1), RecordedSpan(version=4, start=1, end=2))
    assert first.turns == [RecordedTurn(role="assistant", text="123")]
    assert (second.reward, second.unscored, second.message) == (None, "reward_error", "the judge said no")
    assert (third.turns[0].text, third.generated) == ("1", 0)
    assert b"never recorded" not in made.line()


def test_a_withdrawn_group_is_kept_with_its_reason_and_an_id_of_its_own():
    group = Withdrawal("truncated", "2 of 2")
    asked = AskedPrompt(0, 7, Prompt("p", "1="))
    made = recorder().record(MadeGroup(asked, IDS, [outcome("1"), outcome("2")], group))
    assert made.withdrawn == "truncated"
    assert len(made.group_id) == 36


ASKED = {"role": "user", "content": "What is in box 3?"}
CALL = {"id": "1", "type": "function", "function": {"name": "open_box", "arguments": {"box": 3}}}
SYSTEM = {"role": "system", "content": "You open boxes."}
TALK = [
    SYSTEM,
    ASKED,
    {"role": "assistant", "content": "", "reasoning_content": "look", "tool_calls": [CALL]},
    {"role": "tool", "content": "a cat", "tool_call_id": "1"},
    {"role": "assistant", "content": "A cat."},
]


def episode(*segments: SegmentRecord) -> ResponseOutcome:
    return ResponseOutcome(list(segments), "stop", Score(1.0))


def test_an_episode_is_kept_as_turns_with_calls_and_results_its_prompt_once():
    turns = tuple(map(turn_of, TALK))
    first = SegmentRecord(IDS, [4, 5, 6], [VersionSpan(0, 0, 1), VersionSpan(1, 2, 3)], "first", turns)
    second = SegmentRecord([7, 8], [9], [VersionSpan(1, 0, 1)], "rewritten_history", (RecordedTurn(role="context"),))
    made = recorded([episode(first, second)] * 2, Prompt("box:3", messages=[SYSTEM, ASKED]))
    assert [turn.text for turn in made.prompt] == ["You open boxes.", "What is in box 3?"]
    call, result, answer, context = made.responses[0].turns
    assert (call.reasoning, call.calls[0].name, json.loads(call.calls[0].arguments)) == ("look", "open_box", {"box": 3})
    assert (result.role, result.text, answer.text, context.role) == ("tool", "a cat", "A cat.", "context")
    assert [unpack_ids(one.context) if one.context else None for one in made.responses[0].segments] == [None, [7, 8]]


def test_a_prompt_of_text_is_not_repeated_by_an_episode():
    rendered = (RecordedTurn(role="context", text="<user>312="), RecordedTurn(role="assistant", text="123"))
    talked = (RecordedTurn(role="user", text="312="), RecordedTurn(role="assistant", text="123"))
    segments = [SegmentRecord(IDS, [4], [VersionSpan(0, 0, 1)], "first", turns) for turns in (rendered, talked)]
    made = recorded([episode(one) for one in segments])
    assert [one.turns for one in made.responses] == [[RecordedTurn(role="assistant", text="123")]] * 2


def test_a_secret_of_a_response_takes_its_token_ids_with_it_and_no_others():
    made = recorded([outcome(f"the key is {SECRET}"), outcome("123")])
    masked, other = made.responses
    assert masked.turns[0].text == "the key is ***"
    assert (masked.masked, masked.left_out) == (1, "masked")
    assert (masked.segments[0].tokens, masked.segments[0].length) == (None, 2)
    assert (other.masked, other.left_out, unpack_ids(other.segments[0].tokens or "")) == (0, "", [4, 9])
    assert unpack_ids(made.prompt_tokens or "") == IDS


@pytest.mark.parametrize("where", ["text", "reasoning", "calls", "message", "earlier segment"])
def test_a_secret_is_found_wherever_it_is(where: str):
    said = {
        "text": {"role": "tool", "content": f"env: {SECRET}"},
        "reasoning": {"role": "assistant", "content": "", "reasoning_content": SECRET},
        "calls": {**TALK[2], "tool_calls": [{"function": {"name": "curl", "arguments": {"key": SECRET}}}]},
    }
    turns = (turn_of(said.get(where, TALK[4])),)
    first = SegmentRecord(IDS, [4], [VersionSpan(0, 0, 1)], "first", turns)
    segments = [first]
    if where == "earlier segment":
        hidden = SegmentRecord([8], [4], [VersionSpan(0, 0, 1)], "first", (RecordedTurn(role="context", text=SECRET),))
        segments = [hidden, first]
    message = f"failed with {SECRET}" if where == "message" else ""
    made = recorded([ResponseOutcome(segments, "stop", Score(0.0), message=message), outcome("1")])
    line = made.line().decode()
    assert SECRET not in line
    assert "***" in line
    assert made.responses[0].left_out == "masked"
    assert all(one.tokens is None and one.context is None for one in made.responses[0].segments)


def test_a_secret_of_the_prompt_takes_all_token_ids_with_it():
    made = recorded([outcome("1"), outcome("2")], Prompt(f"p-{SECRET}", messages=[{"role": "user", "content": SECRET}]))
    assert SECRET not in made.line().decode()
    assert (made.prompt_tokens, made.masked) == (None, 2)
    assert [one.left_out for one in made.responses] == ["masked", "masked"]
    assert all(one.segments[0].tokens is None for one in made.responses)


def test_token_ids_are_left_out_where_nobody_wants_them():
    made = recorded([outcome("1"), outcome("2")], tokens=False)
    assert (made.prompt_tokens, made.responses[0].left_out, made.responses[0].segments[0].tokens) == (None, "off", None)
    assert made.responses[0].generated == 2


def test_texts_that_are_no_unicode_and_messages_of_unknown_form_are_kept_as_far_as_they_can_be():
    made = recorded([outcome("a\ud800"), outcome("2")], Prompt("p", messages=[{"role": "user", "content": {"x": 1}}]))
    assert made.responses[0].turns[0].text == "a?"
    assert made.prompt[0].text == '{"x": 1}'

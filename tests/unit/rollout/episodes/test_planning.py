"""Which segment a call continues, and why it opens one."""

from __future__ import annotations

import pytest

from rollout.engine.response import joined, moved
from rollout.episodes.calls import ChatCall
from rollout.episodes.errors import ChatRequestError
from tests.tools.episode_world import Shown, World, talk, user

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
NEXT = "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"


async def openings(made: World, *calls: ChatCall) -> list[str]:
    episode = made.book.open()
    for call in calls:
        await episode.chat(call)
    return made.counts.openings


HI = {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (ChatCall([user("q"), HI, user("more")]), []),
        (ChatCall([user("q"), HI, user("more")], tool_choice="none", tools=[TOOL]), []),
        (ChatCall([user("q"), HI, user("more")], tools=[TOOL]), ["other_tools"]),
        (ChatCall([user("q"), HI, user("more")], template={"enable_thinking": True}), ["other_tools"]),
        (ChatCall([user("q"), {**HI, "content": "hullo"}, user("more")]), ["rewritten_history"]),
        (ChatCall([user("q"), {**HI, "reasoning_content": "mine"}, user("more")]), ["rewritten_history"]),
        (ChatCall([user("q"), user("more")]), ["rewritten_history"]),
        (ChatCall([user("else")]), ["new_conversation"]),
        (ChatCall([user("q"), HI]), []),  # nothing new: the model goes on
    ],
)
async def test_why_a_segment_is_opened(world, second: ChatCall, expected: list[str]):
    made = world("chatml", "hello<|im_end|>", "bye<|im_end|>")
    assert await openings(made, ChatCall([user("q")]), second) == ["first", *expected]


async def test_tools_and_keywords_in_another_order_are_the_same(world):
    made = world("thinking", "hello<|im_end|>", "bye<|im_end|>")
    turned = {"function": dict(reversed(TOOL["function"].items())), "type": "function"}
    first = ChatCall([user("q")], tools=[TOOL], template={"a": 1, "b": 2})
    second = ChatCall([user("q"), HI, {"role": "tool", "content": "2"}], tools=[turned], template={"b": 2, "a": 1})
    assert await openings(made, first, second) == ["first"]


async def test_the_longest_history_wins(world):
    made = world("chatml", *["hello<|im_end|>"] * 4)
    episode, history = made.book.open(), [user("q")]
    await talk(episode, history, "more")
    fork = [user("q"), HI, user("other")]
    (forked,) = await talk(episode, fork)
    assert (forked.segment, forked.continued) == (1, False)
    third = await episode.chat(ChatCall([*fork, user("last")]))
    assert (third.segment, third.continued) == (1, True)
    assert made.counts.openings == ["first", "rewritten_history"]


async def test_an_answer_that_is_asked_for_again_replaces_the_first(world):
    made = world("chatml", "hello<|im_end|>", "lost<|im_end|>", "found<|im_end|>")
    episode, history = made.book.open(), [user("q")]
    await talk(episode, history, "more")
    again = await episode.chat(ChatCall(history[:-1]))
    assert again.continued
    assert made.engine.exchanges[1].prompt == made.engine.exchanges[2].prompt
    assert made.counts.dropped == 1
    record = episode.close()
    (segment,) = record.segments
    text = made.part(segment.tokens)
    assert text == "hello<|im_end|>" + NEXT + "found<|im_end|>"
    generated = [token for span in segment.spans for token in segment.tokens[span.start : span.end]]
    assert generated == [*made.engine.exchanges[0].tokens, *made.engine.exchanges[2].tokens]


async def test_token_ids_continue_what_they_begin_with(world):
    made = world("chatml", "hello", "12<|im_end|>", "x<|im_end|>", "y<|im_end|>")
    episode, prompt = made.book.open(), made.tokenizer.rendered_ids("q")
    shown = Shown()
    first = await episode.generate(prompt, on_delta=shown, max_new_tokens=64)
    assert shown.text == first.message["content"] == "hello"
    assert (first.finish, first.continued, made.engine.exchanges[0].sampling.max_new_tokens) == ("length", False, 64)
    more = [*prompt, *first.tokens, *made.tokenizer.rendered_ids(" world")]
    second = await episode.generate(more)
    assert (second.segment, second.continued, second.prompt_tokens) == (0, True, len(more))
    third = await episode.generate(prompt)
    assert (third.segment, third.continued) == (1, False)
    other = made.tokenizer.rendered_ids("other")
    fourth = await episode.generate(other)
    assert fourth.segment == 2
    assert made.counts.openings == ["first", "rewritten_history", "new_conversation"]
    record = episode.close()
    assert record.segments[0].context == prompt
    assert record.segments[0].tokens == [*more[len(prompt) :], *second.tokens]
    at = len(more) - len(prompt)
    assert joined(record.segments[0].spans) == joined([*first.versions, *moved(second.versions, at)])
    turns = [(turn.role, turn.text) for turn in record.segments[-1].turns]
    assert turns == [("context", "other"), ("assistant", "y<|im_end|>")]


async def test_a_segment_that_went_on_by_token_ids_has_no_messages_any_more(world):
    made = world("chatml", *["hello<|im_end|>"] * 4)
    episode, history = made.book.open(), [user("q")]
    (answer,) = await talk(episode, history)
    whole = [*made.engine.exchanges[0].prompt, *answer.tokens]
    assert (await episode.generate([*whole, 5])).segment == 0
    (again,) = await talk(episode, [*history, user("more")])
    assert (again.segment, again.continued) == (1, False)


@pytest.mark.parametrize("wrong", [[], [-1], [1 << 20], ["1"]])
async def test_token_ids_that_no_model_has_are_refused(world, wrong):
    made = world("chatml", "hello")
    with pytest.raises(ChatRequestError, match=r"prompt: token id .* expected at least one id, each in \[0, "):
        await made.book.open().generate(wrong)

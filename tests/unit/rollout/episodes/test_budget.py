"""Limits of an episode: turns, tokens, seconds."""

from __future__ import annotations

import asyncio

import pytest

from rollout.config import EpisodeLimits
from rollout.episodes.budget import bounded_limits
from rollout.episodes.calls import Answer, ChatCall
from rollout.episodes.errors import EpisodeLimitError
from tests.tools.episode_world import started, talk, user


async def test_turns_end(world):
    made = world("chatml", *["hello<|im_end|>"] * 3, turns=2)
    episode, history = made.book.open(), [user("q")]
    await talk(episode, history, "more")
    with pytest.raises(EpisodeLimitError, match=r"limit of 2 turns \(task\.limits\.turns\)") as caught:
        await episode.chat(ChatCall([*history, user("last")]))
    assert caught.value.limit == "turns"
    record = episode.close()
    assert (record.limit, record.finish, record.calls) == ("turns", "length", 2)
    assert made.counts.calls == ["answered", "answered", "limit"]


async def test_a_call_that_failed_is_no_turn(world):
    made = world("chatml", "hello<|im_end|>", turns=1)
    episode = made.book.open()
    made.engine.gate = lambda call: asyncio.Event().wait()
    task = asyncio.create_task(episode.chat(ChatCall([user("q")])))
    await started(made, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    made.engine.gate, made.engine.calls = lambda call: asyncio.sleep(0), 0
    await talk(episode, [user("q")])
    assert episode.close().limit is None


async def test_tokens_end(world):
    made = world("chatml", "1" * 99 + "<|im_end|>", tokens=60)
    episode, history = made.book.open(), [user("q")]
    (cut,) = await talk(episode, history)
    assert (cut.finish, len(cut.tokens)) == ("length", 60 - cut.prompt_tokens)
    with pytest.raises(EpisodeLimitError, match="limit of 60 tokens, this call's context alone has"):
        await episode.chat(ChatCall([*history, user("more")]))
    record = episode.close()
    assert (record.limit, record.finish) == ("tokens", "length")
    assert sum(len(segment.context) + len(segment.tokens) for segment in record.segments) == 60


async def test_tokens_of_all_segments_count(world):
    made = world("chatml", "hello<|im_end|>", "hello<|im_end|>", "hello<|im_end|>", tokens=200)
    episode, history = made.book.open(), [user("q")]
    (first,) = await talk(episode, history)
    used = first.prompt_tokens + len(first.tokens)
    (second,) = await talk(episode, [user("other")])
    assert made.engine.exchanges[1].sampling.max_new_tokens == 200 - used - second.prompt_tokens
    await talk(episode, [*history, user("more")])
    third = made.engine.exchanges[2]
    others = second.prompt_tokens + len(second.tokens)
    assert third.sampling.max_new_tokens == 200 - others - len(third.prompt)


async def test_an_answer_that_its_call_cut_off_is_no_limit_of_the_episode(world):
    made = world("chatml", "1" * 99 + "<|im_end|>", tokens=4000, max_new_tokens=50)
    episode = made.book.open()
    (answer,) = await talk(episode, [user("q")], max_tokens=10)
    record = episode.close()
    assert len(answer.tokens) == 10
    assert (record.limit, record.finish) == (None, "length")
    assert made.counts.parameters == []


async def test_more_tokens_than_the_settings_allow_are_counted(world):
    made = world("chatml", "1" * 99 + "<|im_end|>", max_new_tokens=50)
    (answer,) = await talk(made.book.open(), [user("q")], max_tokens=51)
    assert len(answer.tokens) == 50
    assert made.counts.parameters == ["max_tokens"]


async def test_calls_at_the_same_time_never_have_more_tokens_than_the_limit(world):
    made = world("chatml", *["1" * 99 + "<|im_end|>"] * 4, tokens=300, max_new_tokens=100)
    episode = made.book.open()
    found = await asyncio.gather(
        *(episode.chat(ChatCall([user(f"q{call}")])) for call in range(4)), return_exceptions=True
    )
    record = episode.close()
    assert sum(len(segment.context) + len(segment.tokens) for segment in record.segments) <= 300
    assert all(isinstance(one, (Answer, EpisodeLimitError)) for one in found)
    assert record.limit == "tokens"


async def test_a_call_waits_for_tokens_that_another_may_give_back(world):
    made = world("chatml", *["hello<|im_end|>"] * 3, tokens=200, max_new_tokens=120)
    episode = made.book.open()
    answers = await asyncio.gather(*(episode.chat(ChatCall([user(f"q{call}")])) for call in range(3)))
    # Each of them wants more than half of what there is, and uses a few.
    assert [answer.finish for answer in answers] == ["stop"] * 3
    assert episode.close().limit is None


async def test_seconds_end_a_call_under_way(world):
    made = world("chatml", "hello<|im_end|>", "late<|im_end|>", seconds=0.5)
    episode, history = made.book.open(), [user("q")]
    made.engine.gate = lambda call: asyncio.Event().wait()
    for _ in range(2):
        with pytest.raises(EpisodeLimitError, match=r"0\.5 s \(task\.limits\.seconds\)"):
            await episode.chat(ChatCall([*history, user("more")]))
    record = episode.close()
    assert (record.limit, record.finish, record.calls, record.segments) == ("seconds", "abort", 0, [])


def test_what_the_run_takes_bounds_the_tokens():
    limits = EpisodeLimits(tokens=500, turns=3)
    assert bounded_limits(limits, 0) is limits
    assert bounded_limits(limits, 400) == EpisodeLimits(tokens=400, turns=3)
    assert bounded_limits(limits, 600) == limits
    assert bounded_limits(EpisodeLimits(), 600).tokens == 600

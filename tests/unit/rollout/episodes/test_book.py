"""Episodes at the same time, under failures, cancelled at any point, and closed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import EpisodeLimits
from rollout.data.tokenizer import Tokenizer
from rollout.engine.errors import EngineError
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.episodes.book import EpisodeBook
from rollout.episodes.calls import Answer, ChatCall
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.episode import Episode
from rollout.episodes.errors import ChatRequestError, EngineAbortedError, EpisodeLimitError, UnknownEpisodeError
from rollout.tasks.score import Score
from tests.tools.chat_model import write_chat_model
from tests.tools.episode_world import Shown, World, started, talk, user

HI = {"role": "assistant", "content": "hello"}
NEXT = "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"


async def test_calls_at_the_same_time_have_segments_of_their_own(world):
    made = world("chatml", *["hello<|im_end|>"] * 6)
    episode = made.book.open()
    first = await asyncio.gather(*(episode.chat(ChatCall([user("q")])) for _ in range(3)))
    assert sorted(answer.segment for answer in first) == [0, 1, 2]
    # All three have the same history now: each call goes on with one that is free.
    more = [user("q"), HI, user("more")]
    second = await asyncio.gather(*(episode.chat(ChatCall(more)) for _ in range(3)))
    assert sorted(answer.segment for answer in second) == [0, 1, 2]
    assert all(answer.continued for answer in second)
    assert made.counts.openings == ["first", "parallel_call", "parallel_call"]
    record = episode.close()
    texts = [made.part(segment.tokens) for segment in record.segments]
    assert texts == ["hello<|im_end|>" + NEXT + "hello<|im_end|>"] * 3


async def test_a_call_on_a_segment_that_generates_opens_another_one(world):
    made = world("chatml", *["hello<|im_end|>"] * 3)
    episode, history = made.book.open(), [user("q")]
    await talk(episode, history)
    gate = asyncio.Event()
    made.engine.gate = lambda call: gate.wait() if call == 1 else asyncio.sleep(0)
    slow = asyncio.create_task(episode.chat(ChatCall([*history, user("a")])))
    await started(made, 2)
    quick = await episode.chat(ChatCall([*history, user("b")]))
    gate.set()
    assert (quick.segment, (await slow).segment) == (1, 0)
    assert [segment.opening for segment in episode.close().segments] == ["first", "parallel_call"]


async def converse(episode: Episode, name: int, cuts: list[int]) -> list[Answer]:
    """Holds a conversation in which each call is cancelled after some turns of the loop and then made again."""
    history, answers = [user(f"q{name}")], []
    for cut in cuts:
        task = asyncio.create_task(episode.chat(ChatCall(history), Shown()))
        for _ in range(cut):
            await asyncio.sleep(0)
        if task.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        answers.append(await episode.chat(ChatCall(history)))
        history = [*history, answers[-1].message, user(f"more{name}")]
    return answers


@settings(max_examples=60, deadline=None)
@given(plans=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), min_size=1, max_size=4))
def test_calls_that_are_cancelled_at_any_point_leave_no_trace(tokenizers, plans: list[list[int]]):
    async def play() -> None:
        made = World.of(tokenizers["chatml"], *[f"hello {call}, world<|im_end|>" for call in range(64)])
        episode = made.book.open()
        spoken = await asyncio.gather(*(converse(episode, name, cuts) for name, cuts in enumerate(plans)))
        record = episode.close()
        assert len(record.segments) == len(plans)
        by_context = {made.part(segment.context): segment for segment in record.segments}
        for name, answers in enumerate(spoken):
            segment = by_context[made.tokenizer.chat_template.render([user(f"q{name}")])]
            assert len({answer.segment for answer in answers}) == 1
            generated = [token for span in segment.spans for token in segment.tokens[span.start : span.end]]
            assert generated == [token for answer in answers for token in answer.tokens]

    asyncio.run(play())


async def test_an_engine_that_fails_leaves_the_episode_as_it_was(world):
    made = world("chatml", *["hello<|im_end|>"] * 3)
    episode, history = made.book.open(), [user("q")]
    await talk(episode, history)
    answer, more = made.engine.answer, ChatCall([*history, user("more")])

    def fail(call: int, prompt: Any) -> Any:
        raise EngineError("no engine")

    made.engine.answer = fail
    for call in (more, ChatCall([user("q")]), ChatCall([user("new")])):
        with pytest.raises(EngineError):
            await episode.chat(call)
    made.engine.answer = answer
    made.engine.calls = 1
    assert (await episode.chat(more)).continued
    assert made.counts.openings == ["first"]
    assert made.counts.dropped == 0
    assert made.counts.calls == ["answered", "failed", "failed", "failed", "answered"]


async def test_a_first_call_that_failed_was_never_there(world):
    made = world("chatml", "hello<|im_end|>")
    made.engine.gate = lambda call: asyncio.Event().wait()
    episode = made.book.open()
    task = asyncio.create_task(episode.chat(ChatCall([user("q")])))
    await started(made, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    made.engine.gate, made.engine.calls = lambda call: asyncio.sleep(0), 0
    (answer,) = await talk(episode, [user("q")])
    assert (answer.segment, made.counts.openings) == (0, ["first"])


@pytest.mark.parametrize(
    ("finish", "error", "message"),
    [
        ("refused", ChatRequestError, "the engine refuses them: said so"),
        ("too_long", EpisodeLimitError, "the engine has no room for an answer: said so"),
        ("abort", EngineAbortedError, "gave the answer up: said so"),
    ],
)
async def test_a_response_that_is_none_is_an_error(tokenizers, finish: Any, error: type[Exception], message: str):
    async def generate(prompt: Any, sampling: Any, affinity: str = "", on_tokens: Any = None) -> Response:
        return Response([], finish, [], message="said so")

    made = World.of(tokenizers["chatml"])
    sampling, limits = Sampling(1.0, 8, ()), EpisodeLimits()
    book = EpisodeBook(generate, made.tokenizer, ChatFormat(made.tokenizer), sampling, limits, made.counts)
    episode = book.open()
    with pytest.raises(error, match=message):
        await episode.chat(ChatCall([user("q")]))
    record = episode.close()
    assert (record.segments, record.finish, record.calls) == ([], "abort", 0)
    assert record.limit == ("tokens" if finish == "too_long" else None)


async def test_closing_ends_calls_under_way_and_the_key(world):
    made = world("chatml", "hello<|im_end|>", "late<|im_end|>")
    episode, history = made.book.open(), [user("q")]
    assert made.book.find(episode.key) is episode
    await talk(episode, history)
    made.engine.gate = lambda call: asyncio.Event().wait()
    late = asyncio.create_task(episode.chat(ChatCall([*history, user("more")])))
    await started(made, 2)
    record = episode.close()
    for call in (late, episode.chat(ChatCall([user("q")])), episode.generate([1])):
        with pytest.raises(UnknownEpisodeError, match="has ended"):
            await call
    assert episode.close() is record
    turns = [(turn.role, turn.text) for turn in record.segments[-1].turns]
    assert turns == [("user", "q"), ("assistant", "hello")]
    with pytest.raises(UnknownEpisodeError, match="belongs to no open episode"):
        made.book.find(episode.key)
    assert len(made.book) == 0


async def test_closing_while_the_caller_hangs_up_is_a_cancellation(world):
    made = world("chatml", "late<|im_end|>")
    made.engine.gate = lambda call: asyncio.Event().wait()
    episode = made.book.open()
    late = asyncio.create_task(episode.chat(ChatCall([user("q")])))
    await started(made, 1)
    late.cancel()
    episode.close()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert made.counts.calls == ["cancelled"]


async def test_keys_differ_and_a_key_that_never_was_is_unknown(world):
    made = world("chatml")
    keys = {made.book.open().key for _ in range(50)}
    assert len(keys) == len(made.book) == 50
    assert all(len(key) >= 40 for key in keys)
    with pytest.raises(UnknownEpisodeError):
        made.book.find("guessed")


async def test_a_reward_stays_after_the_end(world):
    made = world("chatml")
    episode = made.book.open()
    episode.reward.set_result(Score(0.5))
    episode.close()
    assert episode.reward.result() == Score(0.5)


async def test_a_model_without_a_template_answers_token_ids_alone(tmp_path):
    model = write_chat_model(tmp_path, "chatml")
    (model / "chat_template.jinja").unlink()
    made = World.of(Tokenizer(model), "hello<|im_end|>")
    episode = made.book.open()
    with pytest.raises(ChatRequestError, match=r"it has no chat template; add chat_template\.jinja"):
        await episode.chat(ChatCall([user("q")]))
    assert (await episode.generate([1, 2])).message["content"] == "hello"

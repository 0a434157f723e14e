"""One open episode: calls come in, segments of token ids grow, a record comes out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rollout.data.chat_message import canonical
from rollout.engine.response import Response
from rollout.episodes.answer_reader import AnswerReader
from rollout.episodes.answer_stream import AnswerStream
from rollout.episodes.budget import EpisodeBudget
from rollout.episodes.calls import Answer, ChatCall, Finish, OnDelta
from rollout.episodes.chat_format import AnswerSoFar, Conversation
from rollout.episodes.context import EpisodeContext
from rollout.episodes.errors import ChatRequestError, EngineAbortedError, EpisodeLimitError, UnknownEpisodeError
from rollout.episodes.planning import plan_chat, plan_tokens
from rollout.episodes.reasoning import opens_reasoning
from rollout.episodes.record import EpisodeRecord
from rollout.episodes.segment import Segment, Step
from rollout.episodes.transcript import transcript
from rollout.tasks.score import Score

_T = TypeVar("_T")


class Episode:
    """An open episode. Calls may be concurrent; one that fails or is cancelled leaves it as it was.

    Args:
        key: with which agents name it.
        context: what it shares with others.
        affinity: episodes with the same one share a prefix, which one engine keeps in its cache.
        on_close: called when it is closed.

    Attributes:
        key: with which agents name it; it ends with the episode.
        reward: the score, once an agent elsewhere has sent one; an exception where it says that there is none.
    """

    def __init__(
        self, key: str, context: EpisodeContext, affinity: str = "", on_close: Callable[[Episode], None] | None = None
    ) -> None:
        self.key = key
        self.reward: asyncio.Future[Score] = asyncio.get_running_loop().create_future()
        self._context = context
        self._affinity = affinity
        self._on_close = on_close
        self._budget = EpisodeBudget(context.limits)
        self._end_ids = (*context.tokenizer.eos_ids, *context.sampling.stop_ids)
        self._segments: list[Segment] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._record: EpisodeRecord | None = None
        self._calls = 0
        self._finish: Finish | None = None

    async def chat(self, call: ChatCall, on_delta: OnDelta | None = None) -> Answer:
        """Generates the next assistant message.

        Messages that extend what a segment has continue it: only the new ones are rendered and tokenised. Anything else
        opens a segment. A tool_choice of "required", or of one function, shows the model its tools and forces nothing: the
        answer may be without a call, as it is when the model is trained.

        Args:
            call: what is asked.
            on_delta: called with pieces of content and reasoning as they come; tool calls are in the answer alone.

        Raises:
            ChatRequestError: the conversation cannot be rendered, or the engine refuses it.
            EpisodeLimitError: a limit of the episode is reached.
            UnknownEpisodeError: the episode has ended.
            EngineAbortedError, EngineError: no engine answers.
        """
        return await self._call(self._chat(call, on_delta))

    async def generate(
        self,
        tokens: Sequence[int],
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        on_delta: OnDelta | None = None,
    ) -> Answer:
        """Generates after token ids. They continue a segment if they begin with everything that it has, or open one.

        Args:
            tokens: token ids of the whole context, at least one.
            max_new_tokens: largest number of generated tokens; None: what the settings allow.
            stop: texts that end the answer.
            on_delta: called with pieces of text as they come.

        Raises:
            ChatRequestError: a token id is not in the vocabulary, or the engine refuses the context.
            EpisodeLimitError, UnknownEpisodeError, EngineAbortedError, EngineError: as ``chat`` does.
        """
        return await self._call(self._continue(list(tokens), max_new_tokens, tuple(stop), on_delta))

    def start_clock(self) -> None:
        """Lets the episode's seconds count from now on: an agent elsewhere has just taken it."""
        self._budget.start_clock()

    def close(self) -> EpisodeRecord:
        """Ends the episode and returns its record; later calls are refused, and those under way end without an answer."""
        if self._record is None:
            kept = sorted(self._segments, key=lambda segment: segment.number)
            records = [
                replace(record, turns=transcript(segment, self._context.tokenizer))
                for segment in kept
                if (record := segment.record()) is not None
            ]
            finish = "abort" if self._finish is None else "length" if self._finish == "length" else "stop"
            if self._finish is not None and self._budget.reached is not None:
                finish = "length"
            self._record = EpisodeRecord(records, finish, self._calls, self._budget.reached)
            for task in self._running:
                task.cancel()
            if self._on_close is not None:
                self._on_close(self)
            if self.reward.done() and not self.reward.cancelled():
                self.reward.exception()  # one that nobody has waited for is no error of this process
        return self._record

    async def _call(self, answering: Coroutine[Any, Any, Answer]) -> Answer:
        if self._record is not None:
            answering.close()
            raise self._over()
        observer = self._context.observer
        # A task of its own: closing the episode ends it, and not the task of whoever called.
        task = asyncio.create_task(answering)
        self._running.add(task)
        try:
            answer = await task
        except asyncio.CancelledError:
            observer.call_ended("cancelled")
            current = asyncio.current_task()
            if self._record is not None and current is not None and not current.cancelling():
                raise self._over() from None
            raise
        except EpisodeLimitError:
            observer.call_ended("limit")
            raise
        except BaseException:
            observer.call_ended("failed")
            raise
        finally:
            self._running.discard(task)
        observer.call_ended("answered")
        return answer

    async def _chat(self, call: ChatCall, on_delta: OnDelta | None) -> Answer:
        async with self._budget.turn():
            shared = self._context
            conversation = Conversation.of(call)
            step = plan_chat(self._segments, conversation, shared.chat_format)
            parser = shared.chat_format.parser
            opened = opens_reasoning(step.rendered)
            stream = None
            if on_delta is not None and parser.streams(conversation.tools):
                tool_format = parser.format(conversation.tools)
                stream = AnswerStream(on_delta, tool_format, opened if parser.splits_reasoning else None, call.stop)
            reader = AnswerReader(shared.tokenizer, self._end_ids, call.stop, stream)
            with self._under_way(step):
                response = await self._generated(step, call.max_tokens, tuple(call.stop), reader)
                parsed = await parser.parse(reader.complete(response), opened, conversation.tools)
                for failure in parsed.failures:
                    shared.observer.parse_failed(failure)
                reader.show(parsed)
                message = parsed.message()
                finish = "tool_calls" if parsed.calls and response.finish == "stop" else _finish(response)
                return self._commit(step, response, message, finish)

    async def _continue(
        self, tokens: list[int], max_new_tokens: int | None, stop: tuple[str, ...], on_delta: OnDelta | None
    ) -> Answer:
        self._require_known(tokens)
        async with self._budget.turn():
            step = plan_tokens(self._segments, tokens)
            stream = None if on_delta is None else AnswerStream(on_delta, None, None, stop)
            reader = AnswerReader(self._context.tokenizer, self._end_ids, stop, stream)
            with self._under_way(step):
                response = await self._generated(step, max_new_tokens, stop, reader)
                text = reader.complete(response)
                if on_delta is not None and stream is not None:
                    stream.complete("", text)
                return self._commit(step, response, {"role": "assistant", "content": text}, _finish(response))

    async def _generated(
        self, step: Step, max_tokens: int | None, stop: tuple[str, ...], reader: AnswerReader
    ) -> Response:
        sampling = self._context.sampling
        if max_tokens is not None and max_tokens > sampling.max_new_tokens:
            self._context.observer.overridden("max_tokens")
        wanted = min(max_tokens or sampling.max_new_tokens, sampling.max_new_tokens)
        async with self._budget.tokens(step.segment.number, len(step.prompt), wanted, self._used) as granted:
            response = await self._context.generate(
                step.prompt,
                replace(sampling, max_new_tokens=granted, stop=(*sampling.stop, *stop)),
                self._affinity,
                reader.push if reader.streams else None,
            )
            if response.finish == "too_long":
                raise self._budget.over_tokens(response.message)
            if response.finish == "refused":
                raise ChatRequestError(f"messages: the engine refuses them: {response.message}")
            if response.finish == "abort":
                raise EngineAbortedError(f"the engine gave the answer up: {response.message}; make the call again")
            if response.finish == "length":
                self._budget.cut_off(granted, wanted)
        return response

    def _commit(self, step: Step, response: Response, message: dict[str, Any], finish: Finish) -> Answer:
        segment, observer = step.segment, self._context.observer
        continued = step.continues
        if step.kept < len(segment.tokens):
            observer.answer_dropped()
        answered = None
        if step.conversation is not None:
            text = self._context.tokenizer.part(response.tokens)
            answered = AnswerSoFar(step.rendered, text, canonical([message])[0], self._ended_by(response))
        segment.commit(step, response, answered)
        self._calls += 1
        self._finish = finish
        if not continued:
            observer.segment_opened(segment.opening)
        return Answer(
            message=message,
            tokens=list(response.tokens),
            versions=list(response.spans),
            finish=finish,
            prompt_tokens=len(step.prompt),
            segment=segment.number,
            continued=continued,
        )

    @contextlib.contextmanager
    def _under_way(self, step: Step) -> Iterator[None]:
        """Marks a segment as generating; one that has got no tokens goes away again."""
        segment = step.segment
        if not segment.tokens:
            self._segments.append(segment)
        segment.step = step
        try:
            yield
        finally:
            segment.step = None
            if not segment.tokens:
                self._segments.remove(segment)

    def _used(self) -> dict[int, int]:
        return {segment.number: len(segment.tokens) for segment in self._segments}

    def _ended_by(self, response: Response) -> int | None:
        if response.finish != "stop" or response.stop_text is not None or not response.tokens:
            return None
        return response.tokens[-1] if response.tokens[-1] in self._end_ids else None

    def _require_known(self, tokens: list[int]) -> None:
        size = self._context.tokenizer.vocab_size
        wrong = next((token for token in tokens if not isinstance(token, int) or not 0 <= token < size), None)
        if wrong is not None or not tokens:
            raise ChatRequestError(f"prompt: token id {wrong!r}: expected at least one id, each in [0, {size})")

    def _over(self) -> UnknownEpisodeError:
        return UnknownEpisodeError("the episode of this key has ended: ask for another one")


def _finish(response: Response) -> Finish:
    return "length" if response.finish == "length" else "stop"

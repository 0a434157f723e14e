"""Reads the tokens of one answer as text while they arrive, and shows what is certain."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import Response
from rollout.episodes.answer_parser import ParsedAnswer
from rollout.episodes.answer_stream import AnswerStream
from rollout.episodes.incremental_text import IncrementalText


class AnswerReader:
    """The text of one answer.

    Args:
        tokenizer: the model's.
        end_ids: ids that are no text at the end of an answer.
        stop: texts that end the answer and are no part of it.
        stream: shows the answer as it comes; None: nobody looks.
    """

    def __init__(
        self, tokenizer: Tokenizer, end_ids: Sequence[int], stop: Sequence[str], stream: AnswerStream | None
    ) -> None:
        self._text = IncrementalText(tokenizer, end_ids)
        self._stop = tuple(stop)
        self._stream = stream
        self._pushed = 0

    @property
    def streams(self) -> bool:
        """Whether tokens are wanted as they arrive."""
        return self._stream is not None

    def push(self, tokens: Sequence[int]) -> None:
        """Takes tokens that have arrived."""
        self._text.push(tokens)
        self._show()

    def complete(self, response: Response) -> str:
        """Returns the text of the whole answer, without its end token and from a stop text on."""
        text = self._text.complete(response.tokens)
        self._show()
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        return text[: min(found)] if found else text

    def show(self, parsed: ParsedAnswer) -> None:
        """Shows what the parsed answer has beyond what has been shown."""
        if self._stream is not None:
            self._stream.complete(parsed.reasoning, parsed.content)

    def _show(self) -> None:
        if self._stream is not None:
            text, self._pushed = self._text.text[self._pushed :], len(self._text.text)
            self._stream.push(text)

"""How a model's conversations become token ids, and what further messages add to a conversation that it has token ids of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rollout.data.chat_message import ChatRequestError, canonical
from rollout.data.chat_template import ChatTemplate
from rollout.data.tokenizer import Tokenizer, TokenizerError
from rollout.episodes.answer_parser import AnswerParser, ParserElsewhere
from rollout.episodes.calls import ChatCall

_SENTINEL = "~an~answer~that~nobody~gives~"


@dataclass(frozen=True)
class Conversation:
    """What a call sends to the model, in canonical form.

    Attributes:
        messages: the messages.
        tools: the tools that are rendered; none where the call forbids them.
        keywords: further variables for the template.
    """

    messages: list[dict[str, Any]]
    tools: tuple[Mapping[str, Any], ...]
    keywords: Mapping[str, Any]

    @classmethod
    def of(cls, call: ChatCall) -> Conversation:
        """Reads a call. Raises ChatRequestError when a message is not as it must be."""
        tools = () if call.tool_choice == "none" else tuple(call.tools)
        return cls(canonical(call.messages), tools, call.template)

    @cached_property
    def setting(self) -> str:
        """Tools and keywords as text: conversations that differ in it are rendered differently from the first token on."""
        return json.dumps([self.tools, dict(self.keywords)], sort_keys=True, default=repr)

    def followed_by(self, messages: Sequence[dict[str, Any]]) -> Conversation:
        """Returns this conversation with further messages."""
        return Conversation([*self.messages, *messages], self.tools, self.keywords)


@dataclass(frozen=True)
class AnswerSoFar:
    """What a conversation has been answered with, as it was generated.

    Attributes:
        rendered: the conversation as the template rendered it, up to the beginning of the answer.
        text: the answer as text, its end token included.
        message: the answer as a canonical message.
        ended_by: its end token; None where a limit or a stop text ended it.
    """

    rendered: str
    text: str
    message: dict[str, Any]
    ended_by: int | None


class ChatFormat:
    """The format of a model's conversations: its chat template, and the parsers of its answers.

    Args:
        tokenizer: the model's.
        tool_parser: as in ``endpoint.tool_parser``.
        reasoning_parser: as in ``endpoint.reasoning_parser``.
        elsewhere: the engine's own parsers, for "sglang:NAME".
        keywords: variables for the template in every conversation; a call's own come first.

    Raises:
        ParserConfigError: a parser is not known.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tool_parser: str = "auto",
        reasoning_parser: str = "auto",
        elsewhere: ParserElsewhere | None = None,
        keywords: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._keywords = dict(keywords or {})
        self._parsers = tool_parser, reasoning_parser, elsewhere
        AnswerParser(
            tool_parser, reasoning_parser, "", elsewhere
        )  # a wrong name is found at the start, not at the first call

    @cached_property
    def parser(self) -> AnswerParser:
        """The parser of the model's answers."""
        tool_parser, reasoning_parser, elsewhere = self._parsers
        return AnswerParser(tool_parser, reasoning_parser, self._template.text, elsewhere)

    def render(self, conversation: Conversation, *, prompt: bool = True) -> str:
        """Returns a conversation as text, with or without the beginning of an answer.

        Raises:
            ChatRequestError: the model has no template, it does not know tools, or refuses the conversation.
        """
        if conversation.tools and "tools" not in self._template.text:
            raise ChatRequestError(
                "tools: the model's chat template does not show tools to the model; describe them in a message, or use a "
                "template that does"
            )
        keywords = {**self._keywords, **conversation.keywords}
        return self._template.render(conversation.messages, conversation.tools, keywords, prompt=prompt)

    def token_ids(self, rendered: str) -> list[int]:
        """Returns the token ids of a rendered conversation."""
        return self._tokenizer.rendered_ids(rendered)

    def count(self, call: ChatCall) -> int:
        """Returns the number of tokens of a call's conversation with the beginning of an answer. Raises ChatRequestError."""
        return len(self.token_ids(self.render(Conversation.of(call))))

    def suffix(self, answered: AnswerSoFar, conversation: Conversation, new: int) -> tuple[str, list[int]] | None:
        """Returns a conversation as rendered, and the ids that its last messages add to what was answered before them.

        The ids begin where the answer's ended, so that nothing that was generated is tokenised again: the template's end of
        an assistant message is added only as far as the model did not generate it.

        Args:
            answered: the answer before the new messages.
            conversation: the whole conversation.
            new: how many of its messages follow the answer.

        Returns:
            None where the template renders what was seen so far otherwise now, such as without earlier reasoning.

        Raises:
            ChatRequestError: the template refuses the conversation.
        """
        rendered = self.render(conversation)
        generated = answered.rendered + answered.text
        if rendered.startswith(generated):
            text = rendered[len(generated) :]
        else:
            answered_so_far = conversation.messages[: len(conversation.messages) - new]
            seen = Conversation(answered_so_far, conversation.tools, conversation.keywords)
            added = self._added(answered, seen, rendered)
            if added is None:
                return None
            text = added
        return rendered, self._tokenizer.rendered_ids(text, answered.ended_by)

    def _added(self, answered: AnswerSoFar, seen: Conversation, rendered: str) -> str | None:
        """Returns the text after an answer that the template writes otherwise than the model did, as spaces within JSON."""
        history = self.render(seen, prompt=False)
        if not rendered.startswith(history) or not history.startswith(answered.rendered):
            return None
        written = history[len(answered.rendered) :]
        if answered.message.get("reasoning_content", "").strip() not in written:
            return None  # a template that never renders reasoning: the model would not see what it has thought
        end = self._end_of_answer(seen, written)
        return None if end is None else self._without(end, answered.ended_by) + rendered[len(history) :]

    def _end_of_answer(self, seen: Conversation, written: str) -> str | None:
        """Returns what the template writes after the text of an assistant message; None if that cannot be told."""
        sentinel = {"role": "assistant", "content": _SENTINEL}
        plain = Conversation([*seen.messages[:-1], sentinel], seen.tools, seen.keywords)
        _, found, end = self.render(plain, prompt=False).rpartition(_SENTINEL)
        if found and written.endswith(end):
            return end
        # Some templates end a message with tool calls by another token.
        starts = [written.rfind(text) for text in self._end_texts if text in written]
        return written[max(starts) :] if starts else None

    def _without(self, end: str, ended_by: int | None) -> str:
        """Returns the end of a message without the end token that was generated, or that stands for it."""
        if ended_by is None:
            return end
        own = self._tokenizer.part([ended_by])
        for text in (own, *self._end_texts):
            if text and end.startswith(text):
                return end[len(text) :]
        return end

    @cached_property
    def _end_texts(self) -> tuple[str, ...]:
        return tuple(text for text in map(self._tokenizer.part, ([end] for end in self._tokenizer.eos_ids)) if text)

    @property
    def _template(self) -> ChatTemplate:
        try:
            return self._tokenizer.chat_template
        except TokenizerError as error:
            raise ChatRequestError(f"messages: {error}") from error

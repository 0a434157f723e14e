"""One token sequence of an open episode, and the steps that make it longer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rollout.data.chat_message import same_message
from rollout.engine.response import Response, VersionSpan, cut, joined, moved
from rollout.engine.routed_tokens import RoutedTokens, continued
from rollout.episodes.chat_format import AnswerSoFar, Conversation
from rollout.episodes.record import Opening, SegmentRecord


@dataclass(frozen=True)
class Step:
    """A call under way: what it adds to a segment once it has been answered.

    Attributes:
        segment: the segment; a new one has no tokens.
        prompt: token ids of the whole context.
        kept: number of the segment's tokens that stay; fewer than it has where its last answer is dropped.
        conversation: what was asked; None for a call by token ids.
        rendered: the conversation as text, up to the beginning of the answer.
    """

    segment: Segment
    prompt: list[int]
    kept: int
    conversation: Conversation | None = None
    rendered: str = ""

    @property
    def continues(self) -> bool:
        """Whether the segment had tokens before."""
        return bool(self.segment.tokens)


@dataclass
class Segment:
    """A token sequence; it changes only when a call has been answered, so that one that is not leaves no trace.

    Attributes:
        number: counts the segments of an episode in the order in which they were opened.
        opening: why it was opened.
        tokens: all token ids.
        context: number of them before the first generated one.
        answer_start: where the last answer begins.
        spans: generated ranges of ``tokens``, in order.
        conversation: its messages with the answers; None once it is known by its token ids alone.
        answered: its last answer; None like ``conversation``.
        step: the call under way; None if none is.
        routed: the experts of its tokens from its beginning on, as far as they are known; None: of none.
    """

    number: int
    opening: Opening
    tokens: list[int] = field(default_factory=list)
    context: int = 0
    answer_start: int = 0
    spans: list[VersionSpan] = field(default_factory=list)
    conversation: Conversation | None = None
    answered: AnswerSoFar | None = None
    step: Step | None = None
    routed: RoutedTokens | None = field(default=None, compare=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Its messages with the answers; none where it is known by its token ids alone."""
        return [] if self.conversation is None else self.conversation.messages

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The messages of the call under way, or else of the last one."""
        if self.step is None:
            return self.messages[:-1]
        return [] if self.step.conversation is None else self.step.conversation.messages

    def extended_by(self, conversation: Conversation) -> int:
        """Returns the number of its messages if a conversation begins with them; or 0."""
        longer = len(conversation.messages) >= len(self.messages)
        return len(self.messages) if longer and _begins(self.messages, conversation) else 0

    def asked_again(self, conversation: Conversation) -> bool:
        """Whether a conversation is the one that the last answer, or the call under way, is for."""
        return len(self.asked) == len(conversation.messages) and _begins(self.asked, conversation)

    def shares_beginning(self, conversation: Conversation) -> bool:
        """Whether the first message is that of the segment, or of the call under way."""
        return any(same_message(own[0], conversation.messages[0]) for own in (self.messages, self.asked) if own)

    def commit(self, step: Step, response: Response, answered: AnswerSoFar | None) -> None:
        """Appends an answer."""
        if not self.tokens:
            self.context = len(step.prompt)
        self.answer_start = len(step.prompt)
        self.tokens = [*step.prompt, *response.tokens]
        kept = cut(self.spans, step.kept)
        self.spans = joined([*kept, *moved(response.spans, self.answer_start)])
        self.routed = continued(None if self.routed is None else self.routed.first(step.kept), response.routed)
        self.answered = answered
        self.conversation = None
        if answered is not None and step.conversation is not None:
            self.conversation = step.conversation.followed_by([answered.message])

    def record(self) -> SegmentRecord | None:
        """Returns the segment up to its last generated token; None if it has none."""
        if not self.spans:
            return None
        tokens = self.tokens[self.context : self.spans[-1].end]
        return SegmentRecord(
            context=self.tokens[: self.context],
            tokens=tokens,
            spans=moved(self.spans, -self.context),
            opening=self.opening,
            routed=None if self.routed is None else self.routed.first(self.spans[-1].end - 1),
        )


def _begins(known: list[dict], conversation: Conversation) -> bool:
    return all(same_message(ours, theirs) for ours, theirs in zip(known, conversation.messages, strict=False))

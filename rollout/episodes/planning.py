"""Decides which segment a call continues, or why it opens one."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.episodes.chat_format import ChatFormat, Conversation
from rollout.episodes.record import Opening
from rollout.episodes.segment import Segment, Step


def plan_chat(segments: Sequence[Segment], conversation: Conversation, chat_format: ChatFormat) -> Step:
    """Returns the step that answers a conversation. The segment that has most of its messages is continued, if it can be.

    Args:
        segments: all segments of the episode, those included whose first call is under way.
        conversation: what was asked.
        chat_format: renders.

    Raises:
        ChatRequestError: the conversation cannot be rendered.
    """
    segment, again = _best(segments, conversation)
    if segment is None:
        return _opening(_unknown(segments, conversation), conversation, chat_format, segments)
    # What the segment has is rendered as it was, with the reasoning that clients leave out.
    known = segment.asked if again else segment.messages
    asked = Conversation([*known, *conversation.messages[len(known) :]], conversation.tools, conversation.keywords)
    if segment.step is not None:
        return _opening("parallel_call", asked, chat_format, segments)
    if segment.conversation is None or segment.answered is None or segment.conversation.setting != asked.setting:
        return _opening("other_tools", asked, chat_format, segments)
    if again:
        # Whoever asks once more has not got the answer, or does not want it. No later call can build on it, so that nobody
        # can say what it was worth: it would get the reward of an episode in which it played no part.
        kept = segment.answer_start
        return Step(segment, segment.tokens[:kept], kept, asked, segment.answered.rendered)
    # Tools and keywords mean the same, perhaps in another order: they are rendered as they were.
    asked = Conversation(asked.messages, segment.conversation.tools, segment.conversation.keywords)
    added = chat_format.suffix(segment.answered, asked, len(asked.messages) - len(known))
    if added is None:
        return _opening("template_not_prefix_stable", asked, chat_format, segments)
    rendered, ids = added
    return Step(segment, [*segment.tokens, *ids], len(segment.tokens), asked, rendered)


def plan_tokens(segments: Sequence[Segment], tokens: list[int]) -> Step:
    """Returns the step that answers token ids: the longest segment whose tokens they begin with is continued.

    Args:
        segments: all segments of the episode, those included whose first call is under way.
        tokens: token ids of the whole context.
    """
    begun = [segment for segment in segments if segment.tokens and tokens[: len(segment.tokens)] == segment.tokens]
    best = max(begun, key=lambda segment: (len(segment.tokens), segment.step is None), default=None)
    if best is not None and best.step is None:
        return Step(best, tokens, len(best.tokens))
    under_way = [segment.step for segment in segments if segment.step is not None]
    opening: Opening = "new_conversation" if segments else "first"
    if best is not None or any(step.prompt == tokens for step in under_way):
        opening = "parallel_call"
    elif any(segment.tokens and tokens[: segment.context] == segment.tokens[: segment.context] for segment in segments):
        opening = "rewritten_history"
    return Step(Segment(_next(segments), opening), tokens, 0)


def _best(segments: Sequence[Segment], conversation: Conversation) -> tuple[Segment | None, bool]:
    """Returns the segment with most of a conversation's messages, and whether its last call is asked again."""
    found: list[tuple[tuple[int, bool], Segment, bool]] = []
    for segment in segments:
        again, matched = segment.asked_again(conversation), segment.extended_by(conversation)
        if again and segment.step is None:
            matched = len(conversation.messages)
        elif matched or again:
            # What is being asked is no history yet: a segment that is free goes before one that generates.
            again, matched = not matched, matched or 1
        if matched:
            own = segment.conversation
            free = segment.step is None and own is not None and own.setting == conversation.setting
            found.append(((matched, free), segment, again))
    if not found:
        return None, False
    _, segment, again = max(found, key=lambda entry: entry[0])
    return segment, again


def _unknown(segments: Sequence[Segment], conversation: Conversation) -> Opening:
    if not segments:
        return "first"
    shared = any(segment.shares_beginning(conversation) for segment in segments)
    return "rewritten_history" if shared else "new_conversation"


def _opening(
    opening: Opening, conversation: Conversation, chat_format: ChatFormat, segments: Sequence[Segment]
) -> Step:
    rendered = chat_format.render(conversation)
    return Step(Segment(_next(segments), opening), chat_format.token_ids(rendered), 0, conversation, rendered)


def _next(segments: Sequence[Segment]) -> int:
    return max((segment.number for segment in segments), default=-1) + 1

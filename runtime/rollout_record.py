"""The format of a recorded group: one JSON object per line, written by workers, read by commands, reports and replays.

Token ids are base64 of little-endian int32: 5.3 characters a token, where a list of numbers takes six or seven. What a row
leaves out, it says: token ids that would reveal a masked text, text beyond the size limit.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import LeewayError

FORMAT = 1

# Why token ids are not in a row: nothing is left out; a text was masked; the row would be too long; record.tokens = false.
LeftOut = Literal["", "masked", "size", "off"]

_INT32 = "i"  # four bytes on every platform that CPython 3.11 supports


class RecordError(LeewayError):
    """A recorded group that cannot be read or used. The message says which, and why."""


class _Row(BaseModel):
    # Unknown keys are passed over: a newer worker of the fleet may write more than this command reads.
    model_config = ConfigDict(frozen=True)


class RecordedCall(_Row):
    """A tool call of an assistant's turn.

    Attributes:
        name: the tool's.
        arguments: JSON text.
    """

    name: str
    arguments: str = ""


class RecordedTurn(_Row):
    """A message of a conversation, or a stretch of text.

    Attributes:
        role: system, user, assistant, tool; prompt for a prompt that is text; context and environment where only token ids
            are known of what the model read.
        text: what was said; the result, of a tool.
        reasoning: what an assistant thought before it.
        calls: tool calls of an assistant.
        cut: number of characters that were left out of the middle of ``text``.
    """

    role: str
    text: str = ""
    reasoning: str = ""
    calls: tuple[RecordedCall, ...] = ()
    cut: int = 0

    @property
    def said(self) -> str:
        """All of it as one text: reasoning, text, tool calls."""
        thought = [f"<think>{self.reasoning}</think>"] if self.reasoning else []
        return "\n".join(
            [*thought, *filter(None, [self.text]), *(f"{one.name}({one.arguments})" for one in self.calls)]
        )


class RecordedSpan(_Row):
    """Tokens ``start`` to ``end`` - 1 of a segment, which ``version`` generated."""

    version: int
    start: int
    end: int


class RecordedSegment(_Row):
    """One token sequence of a response.

    Attributes:
        context: token ids before the first generated one, packed; None: the group's prompt, or left out.
        context_length: number of them.
        tokens: token ids after it, packed; None: left out.
        length: number of them.
        spans: which of ``tokens`` which version generated.
        turns: what a person reads of it; without the prompt's turns, where it begins with them.
    """

    context: str | None = None
    context_length: int = 0
    tokens: str | None = None
    length: int = 0
    spans: tuple[RecordedSpan, ...] = ()
    turns: tuple[RecordedTurn, ...] = ()


class RecordedResponse(_Row):
    """One response of a group.

    Attributes:
        segments: its sequences, mostly one; one without spans has text alone, and was not sent.
        finish: stop, length or abort.
        reward: None: it is unscored.
        parts: named parts of the reward.
        unscored: why it has no reward; empty if it has one.
        message: what happened, where it has none.
        masked: number of texts in it that ``***`` stands for.
        left_out: why its token ids are not there.
    """

    segments: tuple[RecordedSegment, ...] = ()
    finish: str = "stop"
    reward: float | None = None
    parts: dict[str, float] = {}
    unscored: str = ""
    message: str = ""
    masked: int = 0
    left_out: LeftOut = ""

    @property
    def generated(self) -> int:
        """Number of tokens that the policy generated."""
        return sum(span.end - span.start for segment in self.segments for span in segment.spans)

    @property
    def turns(self) -> list[RecordedTurn]:
        """The turns of all its segments, in order."""
        return [turn for segment in self.segments for turn in segment.turns]


class RecordedSampling(_Row):
    """How tokens were drawn."""

    temperature: float = 1.0
    max_new_tokens: int = 0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None


class RecordedGroup(_Row):
    """A whole group, as a worker made it.

    Attributes:
        format: version of this format.
        group_id: the id under which it was submitted; one of its own if it was withdrawn.
        time: when its responses had been scored, in Unix seconds.
        worker: the name of the worker that made it.
        task: the task's name.
        prompt_id: the prompt's name.
        prompt: what was asked, as turns.
        prompt_tokens: the prompt's token ids, packed; None: left out.
        prompt_length: number of them.
        responses: every response.
        sampling: how tokens were drawn.
        withdrawn: why it was not submitted; empty if it was.
        masked: number of texts in the prompt that ``***`` stands for.
    """

    format: int = FORMAT
    group_id: str
    time: float
    worker: str = ""
    task: str = ""
    prompt_id: str = ""
    prompt: tuple[RecordedTurn, ...] = ()
    prompt_tokens: str | None = None
    prompt_length: int = 0
    responses: tuple[RecordedResponse, ...] = ()
    sampling: RecordedSampling = RecordedSampling()
    withdrawn: str = ""
    masked: int = 0

    @classmethod
    def parse(cls, line: bytes | str) -> RecordedGroup:
        """Reads a line. Raises RecordError if it is no recorded group of this format."""
        try:
            group = cls.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise RecordError(f"no recorded group: {where}: {first['msg']}") from error
        if group.format != FORMAT:
            raise RecordError(f"format = {group.format}: this release reads {FORMAT}; use the release that recorded it")
        return group

    def line(self) -> bytes:
        """The group as one line of JSON, its newline included."""
        return self.model_dump_json(exclude_defaults=True).encode()[:-1] + f',"format":{self.format}}}\n'.encode()

    @property
    def versions(self) -> list[int]:
        """The versions that generated its tokens, ascending."""
        return sorted({s.version for one in self.responses for segment in one.segments for s in segment.spans})

    @property
    def rewards(self) -> list[float]:
        """Rewards of the scored responses."""
        return [one.reward for one in self.responses if one.reward is not None]

    @property
    def advantages(self) -> list[float | None]:
        """Each response's reward less the mean of the scored ones, before an objective scales it; None for unscored ones.

        Exactly 0 where all rewards are equal, whatever the rounding of the mean.
        """
        rewards = self.rewards
        if not rewards:
            return [None] * len(self.responses)
        equal = min(rewards) == max(rewards)
        mean = rewards[0] if equal else sum(rewards) / len(rewards)
        return [None if one.reward is None else one.reward - mean for one in self.responses]


def text_of(turns: Sequence[RecordedTurn]) -> str:
    """Returns turns as one text; with their roles, unless it is one alone that says nothing by its role."""
    if len(turns) == 1 and turns[0].role in ("prompt", "assistant"):
        return turns[0].said
    return "\n".join(f"{turn.role}: {turn.said}" for turn in turns)


def pack_ids(ids: Sequence[int]) -> str:
    """Packs token ids. Raises OverflowError for one outside [-2**31, 2**31)."""
    numbers = array(_INT32, ids)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def unpack_ids(packed: str) -> list[int]:
    """Unpacks what ``pack_ids`` made. Raises RecordError if it did not."""
    numbers = array(_INT32)
    try:
        numbers.frombytes(base64.b64decode(packed, validate=True))
    except (binascii.Error, ValueError) as error:
        raise RecordError(f"token ids {packed[:16]!r}...: not base64 of int32: {error}") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()

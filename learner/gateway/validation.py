"""Checks a group against the contract: a group in, its first violation or its measures out."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from learner.config import LimitsConfig
from leeway.v1 import rollout_pb2

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_PROMPT_ID_BYTES = 256
_MAX_TASK_BYTES = 64
_MAX_METADATA_KEYS = 32
_MAX_METADATA_BYTES = 4096
_MAX_REWARD_PARTS = 32
_MAX_PART_NAME_BYTES = 64
_MAX_SPANS = 4096
_SHOWN = 128
_EARLIEST_S = 946_684_800  # 2000-01-01: no clock was set before
_AHEAD_S = 86_400  # clocks may be wrong by a day
_FINISH_REASONS = frozenset(rollout_pb2.FinishReason.values())
_ID_AHEAD_S = 600.0  # clocks of fleets may be ahead by so much

_TIMES = "from 2000 to a day from now, in seconds since 1970"
PRINTABLE = "printable characters: no control or format characters, no line breaks"

UNKNOWN_VERSION = "unknown_version"
ID_TOO_OLD = "id_too_old"
TOO_STALE = "too_stale"


@dataclass(frozen=True)
class Violation:
    """The place where a group breaks the contract, and what would have been allowed there."""

    reason: str  # a constant, usable as a metric label
    field: str  # path, such as "responses[3].tokens[17]"
    value: str  # the offending value, cut to 128 characters, and what was allowed

    @classmethod
    def of(cls, reason: str, field: str, value: object, allowed: str) -> Violation:
        """Builds a violation; cuts the text of ``value``, and appends ``allowed``, which says what would have been right."""
        text = str(value)
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
        return cls(reason, field, f"{shown} (allowed: {allowed})")


class GroupRules(NamedTuple):
    """What a gateway asks of a group beyond its form."""

    limits: LimitsConfig
    id_memory_s: float  # seconds for which the queue remembers the id of a finished group


class Measures(NamedTuple):
    """Size, mean reward and versions of a valid group."""

    tokens: int  # prompt and response tokens over all responses
    generated: int  # response tokens over all responses
    responses: int
    reward: float
    versions: Collection[int] = ()  # of its spans, each once


def validate(group: rollout_pb2.Group, limits: LimitsConfig, known_versions: Container[int]) -> Violation | None:
    """Returns the first violation in ``group``, None if it is valid; arguments as for ``examine``."""
    found = examine(group, limits, known_versions)
    return found if isinstance(found, Violation) else None


def examine(
    group: rollout_pb2.Group, limits: LimitsConfig, known_versions: Container[int], now: float | None = None
) -> Violation | Measures:
    """Checks a group against every rule of the contract.

    Args:
        group: as received; nothing in it can be trusted.
        limits: the run's limits.
        known_versions: versions that this run has published.
        now: Unix seconds, which bound when a group can have been made; None takes the time of the call.

    Returns:
        The first violation, or the measures of a valid group.
    """
    # A slice is made in one call; iterating over a repeated field costs four times as much. No object is made of those
    # that are too many: there may be a million.
    responses = group.responses[: limits.group_size[1] + 1]
    # Each access to a bytes field copies it: once is enough.
    tokens = [group.prompt_tokens, *[response.tokens for response in responses]]
    versions: set[int] = set()
    violation = (
        _names(group)
        or _created_at(group, time.time() if now is None else now)
        or _shape(group, limits)
        or _lengths(tokens, limits)
        or _vocabulary(tokens, limits.vocab_size)
        or _responses(responses, tokens[1:], limits, known_versions, versions)
    )
    if violation is not None:
        return violation
    prompt = len(tokens[0]) // 4
    generated = sum(map(len, tokens)) // 4 - prompt
    count = len(responses)
    reward = sum([response.reward for response in responses]) / count
    if not math.isfinite(reward):  # each of them is finite
        return Violation.of("reward_mean_not_finite", "responses", reward, "a finite mean of the rewards")
    return Measures(generated + count * prompt, generated, count, reward, versions)


def id_time_violation(group_id: str, memory_s: float, now: float | None = None) -> Violation | None:
    """Checks that the time in a well-formed group id is not in the future: such an id would be remembered for too long.

    Whether an id is too old only the queue knows (append.lua), by its memory and not by a clock.

    Args:
        group_id: UUID version 7, which begins with Unix milliseconds.
        memory_s: seconds for which the id of a finished group is remembered.
        now: Unix seconds; None takes the time of the call.
    """
    made = int(group_id[:8] + group_id[9:13], 16) / 1000
    age, ahead = (time.time() if now is None else now) - made, min(_ID_AHEAD_S, memory_s / 8)
    if age < -ahead:
        allowed = f"at most {ahead:.0f} s ahead of the gateway's clock"
        return Violation.of("id_in_future", "group_id", f"{group_id}, made in {-age:.0f} s", allowed)
    return None


def forgotten_violation(group_id: str) -> Violation:
    """Builds the violation of a group that the queue does not know and may have forgotten, so that it may be a duplicate."""
    allowed = "one that the queue still remembers: send a group again within queue.id_memory_s"
    return Violation.of(ID_TOO_OLD, "group_id", group_id, allowed)


def staleness_violation(group: rollout_pb2.Group, staleness: Mapping[int, int], bound: int) -> Violation:
    """Builds the violation of a group that the learner would let expire; it names the first of its most stale spans.

    Args:
        group: a valid group, with spans of at least one of the versions that are too stale.
        staleness: of each version that is too stale, in optimizer steps.
        bound: the greatest staleness at which a group is trained.
    """
    version = max(staleness, key=lambda one: staleness[one])
    text, allowed = f"version {version}, {staleness[version]} steps stale", f"at most {bound} (expire_after)"
    for index, response in enumerate(group.responses[:]):
        for number, span in enumerate(response.spans[:]):
            if span.version == version:
                return Violation.of(TOO_STALE, f"responses[{index}].spans[{number}].version", text, allowed)
    raise AssertionError(f"version {version} is in none of the group's spans")


def _names(group: rollout_pb2.Group) -> Violation | None:
    if not _UUID7.fullmatch(group.group_id):
        return Violation.of("group_id_malformed", "group_id", _quoted(group.group_id), "UUID version 7, lower case")
    for field, text, most in (
        ("prompt_id", group.prompt_id, _MAX_PROMPT_ID_BYTES),
        ("task", group.task, _MAX_TASK_BYTES),
    ):
        violation = _name(field, field, text, most)
        if violation is not None:
            return violation
    return _metadata(group) if group.metadata else None


def _metadata(group: rollout_pb2.Group) -> Violation | None:
    if len(group.metadata) > _MAX_METADATA_KEYS:
        return Violation.of("metadata_keys", "metadata", f"{len(group.metadata)} keys", f"at most {_MAX_METADATA_KEYS}")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in group.metadata.items())
    if size > _MAX_METADATA_BYTES:
        return Violation.of("metadata_size", "metadata", f"{size} bytes", f"at most {_MAX_METADATA_BYTES} in all")
    for key in group.metadata:
        if not key.isprintable():
            return Violation.of("metadata_key_characters", "metadata", _quoted(key), PRINTABLE)
    return None


def _name(kind: str, field: str, text: str, most: int) -> Violation | None:
    """Checks a name that operators are shown; ``kind`` begins the reason."""
    if not 1 <= len(text.encode()) <= most:
        return Violation.of(f"{kind}_length", field, _quoted(text), f"1 to {most} bytes")
    if not text.isprintable():
        return Violation.of(f"{kind}_characters", field, _quoted(text), PRINTABLE)
    return None


def _quoted(text: str) -> str:
    """Quotes as much of a text as a violation shows: the whole may have megabytes."""
    return repr(text[:_SHOWN])


def _created_at(group: rollout_pb2.Group, now: float) -> Violation | None:
    if not group.HasField("created_at"):
        return None
    stamp = group.created_at
    if not 0 <= stamp.nanos < 10**9:
        return Violation.of("created_at", "created_at.nanos", stamp.nanos, "0 to 999999999")
    if not _EARLIEST_S <= stamp.seconds <= now + _AHEAD_S:
        return Violation.of("created_at", "created_at.seconds", stamp.seconds, _TIMES)
    return None


def _shape(group: rollout_pb2.Group, limits: LimitsConfig) -> Violation | None:
    smallest, largest = limits.group_size
    if not smallest <= len(group.responses) <= largest:
        return Violation.of("group_size", "responses", f"{len(group.responses)} responses", f"{smallest} to {largest}")
    # The field is in single precision: so are the limits, or 0.7 itself would be below a lowest value of 0.7.
    lowest, highest = np.float32(limits.temperature_range[0]), np.float32(limits.temperature_range[1])
    if not lowest <= group.temperature <= highest:  # false for NaN too
        return Violation.of("temperature", "temperature", np.float32(group.temperature), f"{lowest!s} to {highest!s}")
    return None


def _lengths(tokens: Sequence[bytes], limits: LimitsConfig) -> Violation | None:
    violation = _length("prompt_tokens", tokens[0], limits.max_prompt_tokens)
    for index, answer in enumerate(tokens[1:]):
        if violation:
            break
        if len(answer) % 4 or not 0 < len(answer) <= 4 * limits.max_response_tokens:
            violation = _length(f"responses[{index}].tokens", answer, limits.max_response_tokens)
    return violation


def _length(field: str, tokens: bytes, most: int) -> Violation | None:
    if len(tokens) % 4:
        return Violation.of("tokens_truncated", field, f"{len(tokens)} bytes", "a multiple of 4 (little-endian int32)")
    if not tokens:
        return Violation.of("tokens_empty", field, "0 tokens", "at least 1")
    if len(tokens) > 4 * most:
        return Violation.of("tokens_too_long", field, f"{len(tokens) // 4} tokens", f"at most {most}")
    return None


def _vocabulary(tokens: Sequence[bytes], size: int) -> Violation | None:
    """Checks that all token ids are in the vocabulary: in one pass, and a second one only to find the offender."""
    # Read as unsigned numbers, negative ids are larger than any vocabulary.
    if int(np.frombuffer(b"".join(tokens), "<u4").max()) < size:
        return None
    for index, buffer in enumerate(tokens):
        outside = np.flatnonzero(np.frombuffer(buffer, "<u4") >= size)
        if outside.size:
            field = "prompt_tokens" if index == 0 else f"responses[{index - 1}].tokens"
            position = int(outside[0])
            token = int(np.frombuffer(buffer, "<i4")[position])
            return Violation.of("token_out_of_vocabulary", f"{field}[{position}]", token, f"0 to {size - 1}")
    raise AssertionError("the first pass found a token outside the vocabulary, the second did not")


def _responses(
    responses: Sequence[rollout_pb2.Response],
    tokens: Sequence[bytes],
    limits: LimitsConfig,
    known_versions: Container[int],
    versions: set[int],
) -> Violation | None:
    """Checks the responses. Adds the versions of their spans to ``versions``."""
    if _all_valid(responses, tokens, limits, known_versions, versions):
        return None
    lowest, highest = limits.reward_range
    for index, (response, answer) in enumerate(zip(responses, tokens, strict=True)):
        path = f"responses[{index}]"
        reward = response.reward
        if not math.isfinite(reward):
            return Violation.of("reward_not_finite", f"{path}.reward", reward, "finite")
        if not lowest <= reward <= highest:
            allowed = f"{lowest:g} to {highest:g}"
            return Violation.of("reward_out_of_range", f"{path}.reward", reward, allowed)
        if response.finish_reason not in _FINISH_REASONS:
            allowed = f"{min(_FINISH_REASONS)} to {max(_FINISH_REASONS)}"
            return Violation.of("finish_reason", f"{path}.finish_reason", response.finish_reason, allowed)
        violation = _reward_parts(path, response) or _spans(path, response.spans, len(answer) // 4, known_versions)
        if violation:
            return violation
    return None


def _all_valid(
    responses: Sequence[rollout_pb2.Response],
    tokens: Sequence[bytes],
    limits: LimitsConfig,
    known_versions: Container[int],
    versions: set[int],
) -> bool:
    """Whether the responses break no rule; adds the versions of their spans to ``versions``.

    It takes a third of the time that it takes to say which rule is broken.
    """
    lowest, highest = limits.reward_range
    for response, answer in zip(responses, tokens, strict=True):
        reward = response.reward
        if not (math.isfinite(reward) and lowest <= reward <= highest) or _reward_parts("", response):
            return False
        if response.finish_reason not in _FINISH_REASONS or len(response.spans) > _MAX_SPANS:
            return False
        previous, length = 0, len(answer) // 4
        for span in response.spans[:]:
            version, start, end = span.version, span.start, span.end
            if not previous <= start < end <= length or version not in known_versions:
                return False
            previous = end
            versions.add(version)
        if previous == 0:
            return False
    return True


def _reward_parts(path: str, response: rollout_pb2.Response) -> Violation | None:
    if not response.reward_parts:
        return None
    if len(response.reward_parts) > _MAX_REWARD_PARTS:
        count = f"{len(response.reward_parts)} parts"
        return Violation.of("reward_parts", f"{path}.reward_parts", count, f"at most {_MAX_REWARD_PARTS}")
    for name, value in response.reward_parts.items():
        violation = _name("reward_part_name", f"{path}.reward_parts", name, _MAX_PART_NAME_BYTES)
        if violation is not None:
            return violation
        if not math.isfinite(value):
            field = f"{path}.reward_parts[{name!r}]"
            return Violation.of("reward_part_not_finite", field, value, "finite")
    return None


def _spans(
    path: str, spans: Sequence[rollout_pb2.Span], length: int, known_versions: Container[int]
) -> Violation | None:
    if len(spans) > _MAX_SPANS:
        return Violation.of("spans_many", f"{path}.spans", f"{len(spans)} spans", f"at most {_MAX_SPANS}")
    previous = 0
    for number, span in enumerate(spans):
        version, start, end = span.version, span.start, span.end
        field = f"{path}.spans[{number}]"
        if end <= start:
            return Violation.of("span_empty", field, f"[{start}, {end})", "start < end")
        if end > length:
            return Violation.of("span_outside", f"{field}.end", end, f"at most {length}, the response's length")
        if start < previous:
            return Violation.of("spans_overlap", f"{field}.start", start, f"at least {previous}: ordered, disjoint")
        if version not in known_versions:
            return Violation.of(UNKNOWN_VERSION, f"{field}.version", version, "a version this run has published")
        previous = end
    if previous == 0:
        return Violation.of("spans_missing", f"{path}.spans", "0 spans", "at least 1")
    return None

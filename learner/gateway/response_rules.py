"""The contract's rules for responses: their tokens, rewards and spans, of one sequence or of several segments.

Nearly every group is valid and has responses of one sequence each. ``ordinary`` recognises these in a third of the time that
it takes to say which rule is broken; all others are looked at by ``examine_responses``, which knows every rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from learner.config import LimitsConfig
from learner.gateway.measures import Measures, measured
from learner.gateway.routing_rules import examine_routing
from learner.gateway.violation import UNKNOWN_VERSION, Violation, name_violation, quoted
from leeway.v1 import rollout_pb2

_MAX_REWARD_PARTS = 32
_MAX_PART_NAME_BYTES = 64
_MAX_SPANS = 4096
_MAX_SEGMENTS = 256
_UNSCORED = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RECORD = "routed_experts"
_FINISH_REASONS = frozenset(rollout_pb2.FinishReason.values())


def ordinary(
    responses: Sequence[rollout_pb2.Response], tokens: Sequence[bytes], limits: LimitsConfig, known: Container[int]
) -> Measures | Violation | None:
    """Measures a group whose responses are scored, are of one sequence each without experts, and break no rule.

    Args:
        responses: not more than the limits allow.
        tokens: of the prompt, then of each response.
        limits: the run's limits.
        known: versions that this run has published.

    Returns:
        The measures, or the violation of a group whose mean reward is not finite; None for a group that is to be examined.
    """
    sizes, versions = list(map(len, tokens)), set[int]()
    if not all(sizes) or sizes[0] > 4 * limits.max_prompt_tokens or max(sizes[1:]) > 4 * limits.max_response_tokens:
        return None
    data = b"".join(tokens)
    # Read as unsigned numbers, negative ids are larger than any vocabulary.
    if any(size % 4 for size in sizes) or int(np.frombuffer(data, "<u4").max()) >= limits.vocab_size:
        return None
    rewards = [response.reward for response in responses]
    lowest, highest = limits.reward_range
    for response, reward, size in zip(responses, rewards, sizes[1:], strict=True):
        if not (math.isfinite(reward) and lowest <= reward <= highest) or _reward_parts("", response):
            return None
        if response.finish_reason not in _FINISH_REASONS or response.unscored or response.segments:
            return None
        if response.HasField(_RECORD):
            return None
        spans = response.spans
        if len(spans) > _MAX_SPANS:
            return None
        previous, length = 0, size // 4
        for span in spans[:]:
            version, start, end = span.version, span.start, span.end
            if not previous <= start < end <= length or version not in known:
                return None
            previous = end
            versions.add(version)
        if previous == 0:
            return None
    generated = (len(data) - sizes[0]) // 4
    return measured((generated + len(responses) * (sizes[0] // 4), generated), rewards, versions)


class _Sequence(NamedTuple):
    """Tokens of a response that follow one another: the response's own, or a segment's."""

    path: str
    context: bytes | None  # None: the group's prompt
    tokens: bytes
    spans: Any
    needs_span: bool
    record: rollout_pb2.RoutedExperts | None = None


class _IdField(NamedTuple):
    """A field of token ids."""

    field: str
    data: bytes
    most: int  # tokens


def examine_responses(
    prompt: bytes, responses: Sequence[rollout_pb2.Response], limits: LimitsConfig, known: Container[int]
) -> Measures | Violation:
    """Checks a group's tokens and responses against every rule.

    Args:
        prompt: the group's prompt tokens.
        responses: not more than the limits allow.
        limits: the run's limits.
        known: versions that this run has published.

    Returns:
        The first violation, or the measures of a valid group.
    """
    if violation := _first(_form(index, response) for index, response in enumerate(responses)):
        return violation
    sequences = [_sequences(index, response) for index, response in enumerate(responses)]
    ids = [_IdField("prompt_tokens", prompt, limits.max_prompt_tokens)]
    ids += [one for sequence in chain(*sequences) for one in _ids(sequence, limits)]
    versions: set[int] = set()
    violation = (
        _first(_length(one) for one in ids)
        or _first(_together(index, segments, limits) for index, segments in enumerate(sequences))
        or _vocabulary(ids, limits.vocab_size)
        or _first(
            _judgement(f"responses[{index}]", response, limits)
            or _first(_spans(sequence, known, versions) for sequence in sequences[index])
            for index, response in enumerate(responses)
        )
    )
    if violation is not None:
        return violation
    if not versions:
        return Violation.of("spans_missing", "responses", "0 spans in the whole group", "at least 1")
    routing = _routing(list(chain(*sequences)), len(prompt) // 4, limits)
    if isinstance(routing, Violation):
        return routing
    generated = sum(len(sequence.tokens) for sequence in chain(*sequences)) // 4
    # A response without tokens counts its prompt all the same: no group is free.
    context = sum(_context(segments, prompt) for segments in sequences) // 4
    rewards = [response.reward for response in responses if not response.unscored]
    unscored = [response.unscored for response in responses if response.unscored]
    found = measured((context + generated, generated), rewards, versions, unscored)
    return found if isinstance(found, Violation) else found._replace(routing=routing)


def _routing(sequences: Sequence[_Sequence], prompt: int, limits: LimitsConfig) -> Violation | int:
    """Checks all records of experts; returns how many bytes they have."""
    total = 0
    for one in sequences:
        if one.record is not None:
            tokens = (prompt if one.context is None else len(one.context) // 4) + len(one.tokens) // 4
            found = examine_routing(f"{one.path}.{_RECORD}", one.record, tokens, limits.routing)
            if isinstance(found, Violation):
                return found
            total += found
    return total


def _first(violations: Iterator[Violation | None]) -> Violation | None:
    return next((one for one in violations if one is not None), None)


def _form(index: int, response: rollout_pb2.Response) -> Violation | None:
    """Checks which fields a response has beside one another."""
    path, segments = f"responses[{index}]", len(response.segments)
    if segments and (response.tokens or response.spans):
        text = f"{segments} segments, {len(response.tokens) // 4} tokens, {len(response.spans)} spans"
        return Violation.of("segments_mixed", path, text, "segments, or tokens and spans")
    if response.HasField(_RECORD) and not response.tokens:
        text = f"a record beside {segments} segments and 0 tokens"
        return Violation.of("routing_mixed", f"{path}.{_RECORD}", text, "a record of the response's own tokens")
    if segments > _MAX_SEGMENTS:
        return Violation.of("segments_many", f"{path}.segments", f"{segments} segments", f"at most {_MAX_SEGMENTS}")
    if response.unscored and not _UNSCORED.fullmatch(response.unscored):
        allowed = "a lower-case letter, then at most 63 of them, of digits and of underscores"
        return Violation.of("unscored_reason", f"{path}.unscored", quoted(response.unscored), allowed)
    return None


def _sequences(index: int, response: rollout_pb2.Response) -> list[_Sequence]:
    path = f"responses[{index}]"
    if response.segments:
        return [
            _Sequence(
                f"{path}.segments[{number}]",
                segment.context_tokens,
                segment.tokens,
                segment.spans,
                True,
                _record(segment),
            )
            for number, segment in enumerate(response.segments[:])
        ]
    if response.unscored and not response.tokens and not response.spans:
        return []
    return [_Sequence(path, None, response.tokens, response.spans, not response.unscored, _record(response))]


def _record(part: rollout_pb2.Response | rollout_pb2.Segment) -> rollout_pb2.RoutedExperts | None:
    return part.routed_experts if part.HasField(_RECORD) else None


def _ids(sequence: _Sequence, limits: LimitsConfig) -> Iterator[_IdField]:
    if sequence.context is not None:
        # The context of a later segment contains what was generated before: ``_together`` bounds it.
        yield _IdField(f"{sequence.path}.context_tokens", sequence.context, len(sequence.context))
    yield _IdField(f"{sequence.path}.tokens", sequence.tokens, limits.max_response_tokens)


def _context(sequences: Sequence[_Sequence], prompt: bytes) -> int:
    """Bytes of the context that a response's tokens follow."""
    return sum(len(prompt if one.context is None else one.context) for one in sequences) or len(prompt)


def _length(ids: _IdField) -> Violation | None:
    field, data, most = ids
    if len(data) % 4:
        return Violation.of("tokens_truncated", field, f"{len(data)} bytes", "a multiple of 4 (little-endian int32)")
    if not data:
        return Violation.of("tokens_empty", field, "0 tokens", "at least 1")
    if len(data) > 4 * most:
        return Violation.of("tokens_too_long", field, f"{len(data) // 4} tokens", f"at most {most}")
    return None


def _together(index: int, segments: Sequence[_Sequence], limits: LimitsConfig) -> Violation | None:
    """Checks that all segments of a response fit into one micro-batch."""
    total = sum(len(one.context) + len(one.tokens) for one in segments if one.context is not None) // 4
    most = limits.max_response_context_tokens
    if total <= most:
        return None
    text = f"{total} tokens in {len(segments)} segments, contexts included"
    allowed = f"at most {most} (max_response_context_tokens: the learner's micro_batch_tokens)"
    return Violation.of("response_too_long", f"responses[{index}].segments", text, allowed)


def _vocabulary(ids: Sequence[_IdField], size: int) -> Violation | None:
    """Checks that all token ids are in the vocabulary."""
    for field, data, _ in ids:
        outside = np.flatnonzero(np.frombuffer(data, "<u4") >= size)
        if outside.size:
            position = int(outside[0])
            token = int(np.frombuffer(data, "<i4")[position])
            return Violation.of("token_out_of_vocabulary", f"{field}[{position}]", token, f"0 to {size - 1}")
    return None


def _judgement(path: str, response: rollout_pb2.Response, limits: LimitsConfig) -> Violation | None:
    """Checks a response's reward, unless nobody judged it, its parts and its finish reason."""
    lowest, highest = limits.reward_range
    reward = response.reward
    if not response.unscored:
        if not math.isfinite(reward):
            return Violation.of("reward_not_finite", f"{path}.reward", reward, "finite")
        if not lowest <= reward <= highest:
            allowed = f"{lowest:g} to {highest:g}"
            return Violation.of("reward_out_of_range", f"{path}.reward", reward, allowed)
    if response.finish_reason not in _FINISH_REASONS:
        allowed = f"{min(_FINISH_REASONS)} to {max(_FINISH_REASONS)}"
        return Violation.of("finish_reason", f"{path}.finish_reason", response.finish_reason, allowed)
    return _reward_parts(path, response)


def _reward_parts(path: str, response: rollout_pb2.Response) -> Violation | None:
    if not response.reward_parts:
        return None
    if len(response.reward_parts) > _MAX_REWARD_PARTS:
        count = f"{len(response.reward_parts)} parts"
        return Violation.of("reward_parts", f"{path}.reward_parts", count, f"at most {_MAX_REWARD_PARTS}")
    for name, value in response.reward_parts.items():
        violation = name_violation("reward_part_name", f"{path}.reward_parts", name, _MAX_PART_NAME_BYTES)
        if violation is not None:
            return violation
        if not math.isfinite(value):
            field = f"{path}.reward_parts[{name!r}]"
            return Violation.of("reward_part_not_finite", field, value, "finite")
    return None


def _spans(sequence: _Sequence, known: Container[int], versions: set[int]) -> Violation | None:
    """Checks the spans of a sequence. Adds their versions to ``versions``."""
    path, spans, length = f"{sequence.path}.spans", sequence.spans, len(sequence.tokens) // 4
    if len(spans) > _MAX_SPANS:
        return Violation.of("spans_many", path, f"{len(spans)} spans", f"at most {_MAX_SPANS}")
    previous = 0
    for number, span in enumerate(spans[:]):
        version, start, end = span.version, span.start, span.end
        field = f"{path}[{number}]"
        if end <= start:
            return Violation.of("span_empty", field, f"[{start}, {end})", "start < end")
        if end > length:
            return Violation.of("span_outside", f"{field}.end", end, f"at most {length}, the number of tokens")
        if start < previous:
            return Violation.of("spans_overlap", f"{field}.start", start, f"at least {previous}: ordered, disjoint")
        if version not in known:
            return Violation.of(UNKNOWN_VERSION, f"{field}.version", version, "a version this run has published")
        previous = end
        versions.add(version)
    if previous == 0 and sequence.needs_span:
        return Violation.of("spans_missing", path, "0 spans", "at least 1")
    return None

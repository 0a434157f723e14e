"""Checks a group against the contract: a group in, its first violation or its measures out."""

from __future__ import annotations

import re
import time
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from learner.config import LimitsConfig
from learner.gateway.measures import Measures
from learner.gateway.response_rules import examine_responses, ordinary
from learner.gateway.violation import PRINTABLE, Violation, name_violation, quoted
from leeway.v1 import rollout_pb2

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_PROMPT_ID_BYTES = 256
_MAX_TASK_BYTES = 64
_MAX_METADATA_KEYS = 32
_MAX_METADATA_BYTES = 4096
_EARLIEST_S = 946_684_800  # 2000-01-01: no clock was set before
_AHEAD_S = 86_400  # clocks may be wrong by a day
_ID_AHEAD_S = 600.0  # clocks of fleets may be ahead by so much

_TIMES = "from 2000 to a day from now, in seconds since 1970"


class GroupRules(NamedTuple):
    """What a gateway asks of a group beyond its form."""

    limits: LimitsConfig
    id_memory_s: float  # seconds for which the queue remembers the id of a finished group


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
    violation = (
        _names(group)
        or _created_at(group, time.time() if now is None else now)
        or _shape(group, limits)
        or (_sampling(group.sampling, limits) if group.HasField("sampling") else None)
    )
    if violation is not None:
        return violation
    # A slice is made in one call; iterating over a repeated field costs four times as much.
    responses = group.responses[:]
    # Each access to a bytes field copies it: once is enough.
    tokens = [group.prompt_tokens, *[response.tokens for response in responses]]
    found = ordinary(responses, tokens, limits, known_versions)
    return examine_responses(tokens[0], responses, limits, known_versions) if found is None else found


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


def _names(group: rollout_pb2.Group) -> Violation | None:
    if not _UUID7.fullmatch(group.group_id):
        return Violation.of("group_id_malformed", "group_id", quoted(group.group_id), "UUID version 7, lower case")
    for field, text, most in (
        ("prompt_id", group.prompt_id, _MAX_PROMPT_ID_BYTES),
        ("task", group.task, _MAX_TASK_BYTES),
    ):
        violation = name_violation(field, field, text, most)
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
            return Violation.of("metadata_key_characters", "metadata", quoted(key), PRINTABLE)
    return None


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


def _sampling(sampling: rollout_pb2.Sampling, limits: LimitsConfig) -> Violation | None:
    """Checks a truncation of the softmax: that it is one, and that the learner can train what was sampled under it."""
    for name, within, cuts, allowed in (
        ("top_p", 0 < sampling.top_p <= 1, sampling.top_p < 1, "above 0, at most 1"),
        ("top_k", sampling.top_k >= 1, sampling.top_k < limits.vocab_size, "at least 1"),
        ("min_p", 0 <= sampling.min_p < 1, sampling.min_p > 0, "at least 0, below 1"),
    ):
        if not sampling.HasField(name):
            continue
        value = np.float32(getattr(sampling, name)) if name != "top_k" else sampling.top_k
        if not within:  # NaN is in no range
            return Violation.of("sampling_range", f"sampling.{name}", value, allowed)
        if cuts and not limits.truncated_sampling:
            allowed = "none: this run's learner recomputes the full softmax, which gives the tokens other probabilities"
            return Violation.of("sampling_truncated", f"sampling.{name}", value, allowed)
    return None

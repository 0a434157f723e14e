"""A reference validator: the contract's rules for a group in plain Python, slow and obvious, without the gateway's code."""

from __future__ import annotations

import struct
from collections.abc import Container

from learner.config import LimitsConfig
from leeway.v1 import rollout_pb2 as pb

_INFINITY = float("inf")
_HEX = set("0123456789abcdef")


def problems(payload: bytes, limits: LimitsConfig, known_versions: Container[int]) -> list[str]:
    """Returns what is wrong with a serialized group; [] when it obeys the contract."""
    group = pb.Group.FromString(payload)
    found = []
    if not is_uuid7(group.group_id):
        found.append("group_id")
    if not 1 <= len(group.prompt_id.encode("utf-8")) <= 256:
        found.append("prompt_id")
    if not 1 <= len(group.task.encode("utf-8")) <= 64:
        found.append("task")
    if not 0 < group.temperature < _INFINITY:
        found.append("temperature")
    if len(group.metadata) > 32:
        found.append("metadata keys")
    if sum(len((key + value).encode("utf-8")) for key, value in group.metadata.items()) > 4096:
        found.append("metadata bytes")
    if not are_tokens(group.prompt_tokens, limits.max_prompt_tokens, limits.vocab_size):
        found.append("prompt_tokens")
    if len(group.responses) not in range(limits.group_size[0], limits.group_size[1] + 1):
        found.append("responses")
    for response in group.responses:
        found += response_problems(response, limits, known_versions)
    return found


def response_problems(response: pb.Response, limits: LimitsConfig, known_versions: Container[int]) -> list[str]:
    """Returns what is wrong with a response of a group."""
    found = []
    if not are_tokens(response.tokens, limits.max_response_tokens, limits.vocab_size):
        found.append("tokens")
    if not limits.reward_range[0] <= response.reward <= limits.reward_range[1]:  # false for NaN too
        found.append("reward")
    if len(response.reward_parts) > 32:
        found.append("reward_parts")
    for value in response.reward_parts.values():
        if not -_INFINITY < value < _INFINITY:
            found.append("reward part")
    if len(response.spans) == 0:
        found.append("no spans")
    covered = [0] * (len(response.tokens) // 4)
    last_start = -1
    for span in response.spans:
        if span.start >= span.end or span.end > len(covered) or span.start <= last_start:
            found.append("span")
            continue
        last_start = span.start
        for position in range(span.start, span.end):
            covered[position] += 1
        if span.version not in known_versions:
            found.append("version")
    if max(covered, default=0) > 1:
        found.append("spans overlap")
    return found


def is_uuid7(text: str) -> bool:
    """Whether the text is a UUID of version 7 in canonical form."""
    if len(text) != 36 or any(text[position] != "-" for position in (8, 13, 18, 23)):
        return False
    digits = text.replace("-", "")
    return len(digits) == 32 and set(digits) <= _HEX and text[14] == "7" and text[19] in "89ab"


def are_tokens(data: bytes, most: int, vocabulary: int) -> bool:
    """Whether the bytes are 1 to ``most`` little-endian int32 ids, each in [0, vocabulary)."""
    if len(data) % 4 or not 1 <= len(data) // 4 <= most:
        return False
    return all(0 <= token < vocabulary for (token,) in struct.iter_unpack("<i", data))

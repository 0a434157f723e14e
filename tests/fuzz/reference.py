"""A reference validator: the contract's rules for a group in plain Python, slow and obvious, without the gateway's code."""

from __future__ import annotations

import struct
import time
import unicodedata
from collections.abc import Container
from datetime import UTC, datetime

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
    elif id_time(group.group_id) - time.time() > 10 * 60:  # whether it is too old only the queue knows
        found.append("time of group_id")
    if not is_name(group.prompt_id, 256):
        found.append("prompt_id")
    if not is_name(group.task, 64):
        found.append("task")
    if not single(limits.temperature_range[0]) <= group.temperature <= single(limits.temperature_range[1]):
        found.append("temperature")
    if group.HasField("created_at") and not is_time(group.created_at.seconds, group.created_at.nanos):
        found.append("created_at")
    if len(group.metadata) > 32:
        found.append("metadata keys")
    if sum(len((key + value).encode("utf-8")) for key, value in group.metadata.items()) > 4096:
        found.append("metadata bytes")
    if not all(is_printable(key) for key in group.metadata):
        found.append("metadata key")
    if not are_tokens(group.prompt_tokens, limits.max_prompt_tokens, limits.vocab_size):
        found.append("prompt_tokens")
    if len(group.responses) not in range(limits.group_size[0], limits.group_size[1] + 1):
        found.append("responses")
    rewards = [response.reward for response in group.responses if response.unscored == ""]
    if all(-_INFINITY < reward < _INFINITY for reward in rewards) and not -_INFINITY < sum(rewards) < _INFINITY:
        found.append("mean reward")
    for response in group.responses:
        found += response_problems(response, limits, known_versions)
    if sum(len(part.spans) for response in group.responses for part in (response, *response.segments)) == 0:
        found.append("no spans in the group")
    if group.HasField("sampling"):
        found += sampling_problems(group.sampling, limits)
    return found


def sampling_problems(sampling: pb.Sampling, limits: LimitsConfig) -> list[str]:
    """Returns what is wrong with a truncation of the softmax."""
    top_p = sampling.top_p if sampling.HasField("top_p") else 1.0
    top_k = sampling.top_k if sampling.HasField("top_k") else limits.vocab_size
    min_p = sampling.min_p if sampling.HasField("min_p") else 0.0
    found = []
    if not (top_p > 0.0 and top_p <= 1.0) or top_k == 0 or not (min_p >= 0.0 and min_p < 1.0):
        found.append("sampling")
    elif not limits.truncated_sampling and (top_p != 1.0 or top_k < limits.vocab_size or min_p != 0.0):
        found.append("truncated")
    return found


def lease_problems(request: pb.LeaseRequest) -> list[str]:
    """Returns what is wrong with a request for a lease; [] when it obeys the contract."""
    found = []
    named = len(request.held_lease_ids) + len(request.returned_lease_ids)
    if request.groups == 0 and named == 0 and not request.HasField("fetching_version"):
        found.append("asks for nothing")
    if len(request.worker.encode("utf-8")) > 64 or not is_printable(request.worker):
        found.append("worker")
    for ids in (request.returned_lease_ids, request.held_lease_ids):
        if len(ids) > 1024:
            found.append("number of lease ids")
        if any(len(one) > 64 for one in ids):
            found.append("length of a lease id")
    return found


def response_problems(response: pb.Response, limits: LimitsConfig, known_versions: Container[int]) -> list[str]:
    """Returns what is wrong with a response of a group."""
    found = []
    judged = response.unscored == ""
    if not judged and not is_reason(response.unscored):
        found.append("unscored")
    if judged and not limits.reward_range[0] <= response.reward <= limits.reward_range[1]:  # false for NaN too
        found.append("reward")
    if len(response.reward_parts) > 32:
        found.append("reward_parts")
    for name, value in response.reward_parts.items():
        if not (-_INFINITY < value < _INFINITY and is_name(name, 64)):
            found.append("reward part")
    if response.finish_reason not in (0, 1, 2, 3):
        found.append("finish_reason")
    if len(response.segments) == 0:
        nothing = len(response.tokens) == 0 and len(response.spans) == 0
        if judged or not nothing:
            if not are_tokens(response.tokens, limits.max_response_tokens, limits.vocab_size):
                found.append("tokens")
            found += span_problems(response, known_versions, judged)
    else:
        if response.tokens or len(response.spans) > 0:
            found.append("mixed")
        found += segment_problems(response, limits, known_versions)
    return found


def segment_problems(response: pb.Response, limits: LimitsConfig, known_versions: Container[int]) -> list[str]:
    """Returns what is wrong with the segments of a response."""
    found = []
    if len(response.segments) > 256:
        found.append("many segments")
    total = 0
    for segment in response.segments:
        total += len(segment.context_tokens) + len(segment.tokens)
        if not are_tokens(segment.context_tokens, limits.max_response_context_tokens, limits.vocab_size):
            found.append("context_tokens")
        if not are_tokens(segment.tokens, limits.max_response_tokens, limits.vocab_size):
            found.append("tokens")
        found += span_problems(segment, known_versions, True)
    if total > 4 * limits.max_response_context_tokens:
        found.append("too long")
    return found


def span_problems(part: pb.Response | pb.Segment, known_versions: Container[int], needed: bool) -> list[str]:
    """Returns what is wrong with the spans over the tokens of a response or a segment; whether one is ``needed``."""
    found = []
    if len(part.spans) > 4096:
        found.append("many spans")
    if needed and len(part.spans) == 0:
        found.append("no spans")
    covered = [0] * (len(part.tokens) // 4)
    last_start = -1
    for span in part.spans:
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


def is_reason(text: str) -> bool:
    """Whether the text is 1 to 64 lower-case ASCII letters, digits and underscores, and begins with a letter."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return len(text) in range(1, 65) and text[0] in letters and all(one in letters + "0123456789_" for one in text)


def is_name(text: str, most: int) -> bool:
    """Whether the text is 1 to ``most`` bytes of printable characters."""
    return 1 <= len(text.encode("utf-8")) <= most and is_printable(text)


def is_printable(text: str) -> bool:
    """Whether the text has no control, format, private or unassigned characters, and no separators but the space."""
    return all(character == " " or unicodedata.category(character)[0] not in "CZ" for character in text)


def is_time(seconds: int, nanos: int) -> bool:
    """Whether a timestamp lies between 2000 and a day from now."""
    earliest = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
    return 0 <= nanos <= 999_999_999 and earliest <= seconds <= time.time() + 24 * 3600


def single(number: float) -> float:
    """Rounds a number to single precision."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


def is_uuid7(text: str) -> bool:
    """Whether the text is a UUID of version 7 in canonical form."""
    if len(text) != 36 or any(text[position] != "-" for position in (8, 13, 18, 23)):
        return False
    digits = text.replace("-", "")
    return len(digits) == 32 and set(digits) <= _HEX and text[14] == "7" and text[19] in "89ab"


def id_time(text: str) -> float:
    """Unix seconds at which a UUID of version 7 says that it was made."""
    milliseconds = 0
    for digit in text.replace("-", "")[:12]:
        milliseconds = 16 * milliseconds + "0123456789abcdef".index(digit)
    return milliseconds / 1000


def are_tokens(data: bytes, most: int, vocabulary: int) -> bool:
    """Whether the bytes are 1 to ``most`` little-endian int32 ids, each in [0, vocabulary)."""
    if len(data) % 4 or not 1 <= len(data) // 4 <= most:
        return False
    return all(0 <= token < vocabulary for (token,) in struct.iter_unpack("<i", data))

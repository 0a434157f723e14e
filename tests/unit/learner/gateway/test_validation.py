"""Every rule a group must keep, with the field and value that a violation names."""

from __future__ import annotations

import math
import uuid
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from learner.config import LimitsConfig
from learner.gateway.validation import Measures, Violation, examine, validate
from leeway.v1 import rollout_pb2 as pb

LIMITS = LimitsConfig(
    vocab_size=100, group_size=(2, 4), max_prompt_tokens=5, max_response_tokens=8, reward_range=(-1.0, 1.0)
)
KNOWN = {0, 3}
UUID7 = "01890a5d-ac96-774b-bcce-b302099a8057"
UUID4 = "f47ac10b-58cc-4372-a567-0e02b2c3d479"


def ids(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def response(**changes: Any) -> pb.Response:
    fields = {"tokens": ids(5, 6, 7, 8), "reward": 0.5, "spans": [pb.Span(version=3, start=0, end=4)]}
    return pb.Response(**{**fields, **changes})


def group(**changes: Any) -> pb.Group:
    fields = {
        "group_id": UUID7,
        "prompt_id": "p",
        "task": "sort",
        "prompt_tokens": ids(1, 2),
        "responses": [response(), response()],
        "temperature": 1.0,
    }
    return pb.Group(**{**fields, **changes})


def spans(*triples: tuple[int, int, int]) -> list[pb.Response]:
    second = response(spans=[pb.Span(version=v, start=s, end=e) for v, s, e in triples])
    return [response(), second]


def second(**changes: Any) -> list[pb.Response]:
    return [response(), response(**changes)]


VIOLATIONS = [
    ("group_id_malformed", "group_id", "'' (allowed", {"group_id": ""}),
    ("group_id_malformed", "group_id", f"'{UUID4}'", {"group_id": UUID4}),
    ("group_id_malformed", "group_id", f"'{UUID7.upper()}'", {"group_id": UUID7.upper()}),
    ("group_id_malformed", "group_id", f"'{UUID7}\\n'", {"group_id": UUID7 + "\n"}),
    ("prompt_id_length", "prompt_id", "'' (allowed: 1 to 256", {"prompt_id": ""}),
    ("prompt_id_length", "prompt_id", "'éé", {"prompt_id": "é" * 129}),
    ("task_length", "task", "'' (allowed: 1 to 64", {"task": ""}),
    ("task_length", "task", "'ttt", {"task": "t" * 65}),
    ("metadata_keys", "metadata", "33 keys", {"metadata": {str(i): "" for i in range(33)}}),
    ("metadata_size", "metadata", "4097 bytes", {"metadata": {"k": "v" * 4096}}),
    ("group_size", "responses", "1 responses (allowed: 2 to 4)", {"responses": [response()]}),
    ("group_size", "responses", "5 responses", {"responses": [response()] * 5}),
    ("temperature", "temperature", "0.0", {"temperature": 0.0}),
    ("temperature", "temperature", "-1.0", {"temperature": -1.0}),
    ("temperature", "temperature", "nan", {"temperature": math.nan}),
    ("temperature", "temperature", "inf", {"temperature": math.inf}),
    ("tokens_truncated", "prompt_tokens", "7 bytes (allowed: a multiple of 4", {"prompt_tokens": b"1234567"}),
    ("tokens_empty", "prompt_tokens", "0 tokens", {"prompt_tokens": b""}),
    ("tokens_too_long", "prompt_tokens", "6 tokens (allowed: at most 5)", {"prompt_tokens": ids(*[1] * 6)}),
    ("tokens_truncated", "responses[1].tokens", "5 bytes", {"responses": second(tokens=b"12345")}),
    ("tokens_empty", "responses[1].tokens", "0 tokens", {"responses": second(tokens=b"")}),
    ("tokens_too_long", "responses[1].tokens", "9 tokens", {"responses": second(tokens=ids(*[1] * 9))}),
    ("token_out_of_vocabulary", "prompt_tokens[1]", "100 (allowed: 0 to 99)", {"prompt_tokens": ids(0, 100, 200)}),
    ("token_out_of_vocabulary", "responses[1].tokens[2]", "-1 ", {"responses": second(tokens=ids(1, 1, -1, 1))}),
    (
        "token_out_of_vocabulary",
        "responses[1].tokens[3]",
        "-2147483648 ",
        {"responses": second(tokens=ids(1, 1, 1, -(2**31)))},
    ),
    ("reward_not_finite", "responses[1].reward", "nan", {"responses": second(reward=math.nan)}),
    ("reward_not_finite", "responses[1].reward", "-inf", {"responses": second(reward=-math.inf)}),
    ("reward_out_of_range", "responses[1].reward", "1.5 (allowed: -1 to 1)", {"responses": second(reward=1.5)}),
    (
        "reward_part_not_finite",
        "responses[1].reward_parts['x']",
        "inf",
        {"responses": second(reward_parts={"x": math.inf})},
    ),
    (
        "reward_parts",
        "responses[1].reward_parts",
        "33 parts",
        {"responses": second(reward_parts={str(i): 0.0 for i in range(33)})},
    ),
    ("spans_missing", "responses[1].spans", "0 spans", {"responses": second(spans=[])}),
    ("span_empty", "responses[1].spans[0]", "[2, 2)", {"responses": spans((3, 2, 2))}),
    ("span_empty", "responses[1].spans[0]", "[3, 1)", {"responses": spans((3, 3, 1))}),
    ("span_outside", "responses[1].spans[1].end", "5 (allowed: at most 4", {"responses": spans((3, 0, 1), (3, 1, 5))}),
    (
        "spans_overlap",
        "responses[1].spans[1].start",
        "1 (allowed: at least 2",
        {"responses": spans((3, 0, 2), (3, 1, 4))},
    ),
    ("spans_overlap", "responses[1].spans[1].start", "0", {"responses": spans((3, 2, 4), (3, 0, 2))}),
    ("unknown_version", "responses[1].spans[1].version", "4 ", {"responses": spans((3, 0, 2), (4, 2, 4))}),
]


@pytest.mark.parametrize(("reason", "field", "value", "changes"), VIOLATIONS)
def test_violation(reason: str, field: str, value: str, changes: dict[str, Any]):
    violation = validate(group(**changes), LIMITS, KNOWN)
    assert violation is not None
    assert (violation.reason, violation.field) == (reason, field)
    assert violation.value.startswith(value)
    assert "(allowed: " in violation.value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt_id": "é" * 128, "task": "t" * 64},
        {"metadata": {str(i): "" for i in range(32)}},
        {"metadata": {"k": "v" * 4095}},
        {"prompt_tokens": ids(0, 99, 0, 99, 0)},
        {"responses": second(reward=-1.0)},
        {"responses": [response()] * 4},
        {"responses": spans((3, 0, 1), (0, 3, 4))},  # a gap: the environment's tokens
        {"responses": second(finish_reason=pb.FINISH_REASON_ABORT)},
    ],
)
def test_at_the_limits_is_valid(changes: dict[str, Any]):
    assert validate(group(**changes), LIMITS, KNOWN) is None


def test_shown_value_is_cut():
    violation = Violation.of("r", "f", "x" * 1000, "short")
    assert violation.value == "x" * 125 + "... (allowed: short)"


@given(st.uuids(version=4), st.integers(0, 15))
def test_only_version_7_ids(value: uuid.UUID, version: int):
    text = str(value)
    text = text[:14] + f"{version:x}" + text[15:]
    assert (validate(group(group_id=text), LIMITS, KNOWN) is None) == (version == 7)


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8), min_size=2, max_size=4))
def test_vocabulary_names_the_first_culprit(contents: list[list[int]]):
    one = [pb.Span(version=0, start=0, end=1)]
    violation = validate(
        group(responses=[response(tokens=ids(*content), spans=one) for content in contents]), LIMITS, KNOWN
    )
    outside = [
        (f"responses[{i}].tokens[{j}]", token)
        for i, content in enumerate(contents)
        for j, token in enumerate(content)
        if not 0 <= token < 100
    ]
    if not outside:
        assert violation is None
    else:
        assert violation is not None
        assert (violation.field, violation.value.split()[0]) == (outside[0][0], str(outside[0][1]))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4))
def test_spans_against_their_definition(edges: list[tuple[int, int]]):
    """Valid exactly when every token lies in at most one span, spans are in order, non-empty and inside."""
    violation = validate(group(responses=spans(*[(3, start, end) for start, end in edges])), LIMITS, KNOWN)
    covered = [token for start, end in edges for token in range(start, end)]
    fine = (
        bool(edges)
        and all(start < end for start, end in edges)
        and covered == sorted(set(covered))
        and all(token < 4 for token in covered)
    )
    assert (violation is None) == fine


@given(st.binary(max_size=200))
def test_never_raises_on_any_parsed_message(data: bytes):
    try:
        parsed = pb.Group.FromString(data)
    except DecodeError:  # the transport refuses it before we see it
        return
    assert validate(parsed, LIMITS, KNOWN) is not None


def test_a_valid_group_is_measured():
    longer = response(tokens=ids(1, 2, 3, 4, 5), reward=1.0)
    valid = group(prompt_tokens=ids(7, 8), responses=[response(reward=0.0), longer])
    assert examine(valid, LIMITS, KNOWN) == Measures(tokens=9 + 2 * 2, generated=9, responses=2, reward=0.5)

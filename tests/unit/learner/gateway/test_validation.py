"""Every rule a group must keep, with the field and value that a violation names."""

from __future__ import annotations

import math
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from learner.config import LimitsConfig
from learner.gateway.measures import Measures
from learner.gateway.retry_reasons import REASONS
from learner.gateway.validation import examine, id_time_violation, validate
from learner.gateway.violation import Violation, forgotten_violation
from leeway.v1 import rollout_pb2 as pb
from runtime.routing_record import RoutingShape
from runtime.settings import SettingsError

LIMITS = LimitsConfig(
    vocab_size=100,
    group_size=(2, 4),
    max_prompt_tokens=5,
    max_response_tokens=8,
    max_response_context_tokens=20,
    reward_range=(-1.0, 1.0),
    routing=RoutingShape(layers=(1, 2), top_k=2, experts=5),
)
TRUNCATING = LIMITS.model_copy(update={"truncated_sampling": True})
KNOWN = {0, 3}
UUID7 = "01890a5d-ac96-774b-bcce-b302099a8057"
NOW = 1_700_000_000
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


def segment(**changes: Any) -> pb.Segment:
    fields = {"context_tokens": ids(1, 2), "tokens": ids(5, 6, 7), "spans": [pb.Span(version=3, start=0, end=2)]}
    return pb.Segment(**{**fields, **changes})


def segmented(*segments: pb.Segment, **changes: Any) -> list[pb.Response]:
    return [response(), pb.Response(segments=segments, reward=0.25, **changes)]


def unscored(reason: str, **changes: Any) -> list[pb.Response]:
    return [response(), pb.Response(unscored=reason, **changes)]


def record(*tokens: tuple[int, int, int, int], **changes: Any) -> pb.RoutedExperts:
    """Experts of tokens from position 1 on: two of layer 1, two of layer 2."""
    fields = {"layers": [1, 2], "top_k": 2, "experts": 5, "start": 1, "ids": bytes(id for one in tokens for id in one)}
    return pb.RoutedExperts(**{**fields, **changes})


ROUTED = (0, 4, 3, 1)


def routed(*tokens: tuple[int, int, int, int], **changes: Any) -> list[pb.Response]:
    return second(routed_experts=record(*tokens, **changes))


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
    ("temperature", "temperature", "0.0 (allowed: 0.05 to 10.0)", {"temperature": 0.0}),
    ("temperature", "temperature", "-1.0 ", {"temperature": -1.0}),
    ("temperature", "temperature", "nan", {"temperature": math.nan}),
    ("temperature", "temperature", "inf", {"temperature": math.inf}),
    ("temperature", "temperature", "-inf", {"temperature": -math.inf}),
    ("temperature", "temperature", "1e-38 ", {"temperature": 1e-38}),
    ("temperature", "temperature", "0.0499 ", {"temperature": 0.0499}),
    ("temperature", "temperature", "10.1 ", {"temperature": 10.1}),
    ("prompt_id_characters", "prompt_id", "'a\\x1b[2J' (allowed: printable", {"prompt_id": "a\x1b[2J"}),
    ("prompt_id_characters", "prompt_id", "'\\u202ea'", {"prompt_id": "\u202ea"}),  # turns the rest of the line around
    ("task_characters", "task", "'a\\nb'", {"task": "a\nb"}),
    ("metadata_key_characters", "metadata", "'\\x00'", {"metadata": {"\0": "v"}}),
    (
        "created_at",
        "created_at.seconds",
        "1700086401 (allowed: from 2000",
        {"created_at": Timestamp(seconds=NOW + 86_401)},
    ),
    ("created_at", "created_at.seconds", "946684799", {"created_at": Timestamp(seconds=946_684_799)}),
    ("created_at", "created_at.seconds", "-9223372036854775808", {"created_at": Timestamp(seconds=-(2**63))}),
    ("created_at", "created_at.nanos", "1000000000", {"created_at": Timestamp(seconds=NOW, nanos=10**9)}),
    ("created_at", "created_at.nanos", "-1", {"created_at": Timestamp(seconds=NOW, nanos=-1)}),
    ("finish_reason", "responses[1].finish_reason", "4 (allowed: 0 to 3)", {"responses": second(finish_reason=4)}),
    ("finish_reason", "responses[1].finish_reason", "-1 ", {"responses": second(finish_reason=-1)}),
    (
        "reward_part_name_length",
        "responses[1].reward_parts",
        "'' (allowed: 1 to 64",
        {"responses": second(reward_parts={"": 0.0})},
    ),
    (
        "reward_part_name_length",
        "responses[1].reward_parts",
        "'xx",
        {"responses": second(reward_parts={"x" * 65: 0.0})},
    ),
    (
        "reward_part_name_characters",
        "responses[1].reward_parts",
        "'a\\r'",
        {"responses": second(reward_parts={"a\r": 0.0})},
    ),
    ("spans_many", "responses[1].spans", "4097 spans", {"responses": spans(*[(3, 0, 1)] * 4097)}),
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
    # segments
    ("segments_mixed", "responses[1]", "1 segments, 4 tokens, 1 spans", {"responses": second(segments=[segment()])}),
    (
        "segments_mixed",
        "responses[1]",
        "1 segments, 2 tokens, 0",
        {"responses": segmented(segment(), tokens=ids(1, 2))},
    ),
    ("segments_many", "responses[1].segments", "257 segments", {"responses": segmented(*[segment()] * 257)}),
    (
        "tokens_empty",
        "responses[1].segments[1].context_tokens",
        "0 tokens",
        {"responses": segmented(segment(), segment(context_tokens=b""))},
    ),
    (
        "tokens_truncated",
        "responses[1].segments[0].context_tokens",
        "5 bytes",
        {"responses": segmented(segment(context_tokens=b"12345"))},
    ),
    (
        "tokens_empty",
        "responses[1].segments[1].tokens",
        "0 tokens",
        {"responses": segmented(segment(), segment(tokens=b""))},
    ),
    (
        "tokens_too_long",
        "responses[1].segments[0].tokens",
        "9 tokens (allowed: at most 8)",
        {"responses": segmented(segment(tokens=ids(*[1] * 9)))},
    ),
    (
        "response_too_long",
        "responses[1].segments",
        "21 tokens in 3 segments, contexts included (allowed: at most 20 (max_response_context_tokens",
        {"responses": segmented(segment(), segment(), segment(context_tokens=ids(*[1] * 8)))},
    ),
    (
        "token_out_of_vocabulary",
        "responses[1].segments[1].context_tokens[1]",
        "100 (allowed: 0 to 99)",
        {"responses": segmented(segment(), segment(context_tokens=ids(99, 100)))},
    ),
    (
        "token_out_of_vocabulary",
        "responses[1].segments[0].tokens[2]",
        "-1 ",
        {"responses": segmented(segment(tokens=ids(1, 1, -1)))},
    ),
    (
        "spans_missing",
        "responses[1].segments[1].spans",
        "0 spans",
        {"responses": segmented(segment(), segment(spans=[]))},
    ),
    (
        "span_outside",
        "responses[1].segments[0].spans[0].end",
        "4 (allowed: at most 3",
        {"responses": segmented(segment(spans=[pb.Span(version=3, start=0, end=4)]))},
    ),
    (
        "spans_many",
        "responses[1].segments[0].spans",
        "4097 spans",
        {"responses": segmented(segment(spans=[pb.Span(version=3, start=0, end=1)] * 4097))},
    ),
    (
        "unknown_version",
        "responses[1].segments[1].spans[0].version",
        "4 ",
        {"responses": segmented(segment(), segment(spans=[pb.Span(version=4, start=0, end=1)]))},
    ),
    ("reward_out_of_range", "responses[1].reward", "1.5", {"responses": second(reward=1.5, unscored="")}),
    # unscored responses
    ("unscored_reason", "responses[1].unscored", "'Timeout' (allowed: a lower", {"responses": unscored("Timeout")}),
    ("unscored_reason", "responses[1].unscored", "'1st'", {"responses": unscored("1st")}),
    ("unscored_reason", "responses[1].unscored", "'a\\n'", {"responses": unscored("a\n")}),
    ("unscored_reason", "responses[1].unscored", "'aaa", {"responses": unscored("a" * 65)}),
    ("unscored_reason", "responses[1].unscored", "'é'", {"responses": unscored("é")}),
    (
        "spans_missing",
        "responses",
        "0 spans in the whole group",
        {"responses": [pb.Response(unscored="x"), pb.Response(unscored="y", tokens=ids(1))]},
    ),
    ("tokens_too_long", "responses[1].tokens", "9 tokens", {"responses": unscored("x", tokens=ids(*[1] * 9))}),
    (
        "span_outside",
        "responses[1].spans[0].end",
        "2",
        {"responses": unscored("x", tokens=ids(1), spans=[pb.Span(version=3, start=0, end=2)])},
    ),
    (
        "spans_missing",
        "responses[1].segments[0].spans",
        "0 spans",
        {"responses": unscored("x", segments=[segment(spans=[])])},
    ),
    ("finish_reason", "responses[1].finish_reason", "9 ", {"responses": unscored("x", finish_reason=9)}),
    # records of experts
    (
        "routing_mixed",
        "responses[1].routed_experts",
        "a record beside 1 segments",
        {"responses": segmented(segment(), routed_experts=record(ROUTED))},
    ),
    (
        "routing_mixed",
        "responses[1].routed_experts",
        "a record beside 0 segments and 0 tokens",
        {"responses": unscored("x", routed_experts=record(ROUTED))},
    ),
    (
        "routing_shape",
        "responses[1].routed_experts.layers",
        "(0, 2) (allowed: (1, 2), as the run",
        {"responses": routed(ROUTED, layers=[0, 2])},
    ),
    (  # as many as a message has room for: they are counted, and never shown or compared
        "routing_shape",
        "responses[1].routed_experts.layers",
        "100000 layers (allowed: 2 layers, as the run",
        {"responses": routed(ROUTED, layers=range(100_000))},
    ),
    ("routing_shape", "responses[1].routed_experts.top_k", "1 (allowed: 2", {"responses": routed(ROUTED, top_k=1)}),
    ("routing_shape", "responses[1].routed_experts.experts", "6 (allowed: 5", {"responses": routed(ROUTED, experts=6)}),
    (
        "routing_length",
        "responses[1].routed_experts.ids",
        "0 bytes (allowed: a multiple of 4,",
        {"responses": routed()},
    ),
    ("routing_length", "responses[1].routed_experts.ids", "5 bytes", {"responses": routed(ids=bytes(5))}),
    (
        "routing_length",
        "responses[1].routed_experts.start",
        "5, with 2 tokens from there on (allowed: an end of at most 6",
        {"responses": routed(ROUTED, ROUTED, start=5)},
    ),
    (
        "routing_expert",
        "responses[1].routed_experts.ids[5]",
        "5, of layer 1 (allowed: 0 to 4)",
        {"responses": routed(ROUTED, (0, 5, 1, 9))},
    ),
    (
        "routing_doubled",
        "responses[1].routed_experts.ids[7]",
        "3, of layer 2 (allowed: different",
        {"responses": routed(ROUTED, (0, 1, 3, 3))},
    ),
    (
        "routing_doubled",
        "responses[1].segments[1].routed_experts.ids[1]",
        "0, of layer 1",
        {"responses": segmented(segment(), segment(routed_experts=record((0, 0, 1, 2), start=0)))},
    ),
    (
        "routing_length",
        "responses[1].segments[0].routed_experts.start",
        "5, with 1",
        {"responses": segmented(segment(routed_experts=record(ROUTED, start=5)))},
    ),
    # sampling
    ("sampling_range", "sampling.top_p", "0.0 (allowed: above 0, at most 1)", {"sampling": pb.Sampling(top_p=0.0)}),
    ("sampling_range", "sampling.top_p", "1.01 ", {"sampling": pb.Sampling(top_p=1.01)}),
    ("sampling_range", "sampling.top_p", "nan ", {"sampling": pb.Sampling(top_p=math.nan)}),
    ("sampling_range", "sampling.top_k", "0 (allowed: at least 1)", {"sampling": pb.Sampling(top_k=0)}),
    ("sampling_range", "sampling.min_p", "1.0 (allowed: at least 0, below 1)", {"sampling": pb.Sampling(min_p=1.0)}),
    ("sampling_range", "sampling.min_p", "-0.1 ", {"sampling": pb.Sampling(min_p=-0.1)}),
    ("sampling_range", "sampling.min_p", "nan ", {"sampling": pb.Sampling(min_p=math.nan)}),
    (
        "sampling_truncated",
        "sampling.top_p",
        "0.95 (allowed: none: this run's learner recomputes the full softmax",
        {"sampling": pb.Sampling(top_p=0.95)},
    ),
    ("sampling_truncated", "sampling.top_k", "99 ", {"sampling": pb.Sampling(top_p=1.0, top_k=99)}),
    ("sampling_truncated", "sampling.min_p", "0.01 ", {"sampling": pb.Sampling(min_p=0.01)}),
]


@pytest.mark.parametrize(("reason", "field", "value", "changes"), VIOLATIONS)
def test_violation(reason: str, field: str, value: str, changes: dict[str, Any]):
    violation = examine(group(**changes), LIMITS, KNOWN, NOW)
    assert isinstance(violation, Violation)
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
        {"temperature": 0.05},
        {"temperature": 10.0},
        {"prompt_id": "gsm8k/train [17]: é 日本"},
        {"created_at": Timestamp(seconds=NOW + 86_400, nanos=999_999_999)},
        {"created_at": Timestamp(seconds=946_684_800)},
        {"responses": second(reward_parts={"x" * 64: -1e300})},
        {"responses": segmented(segment(), segment(context_tokens=ids(*[99] * 12)))},  # 20 tokens; a long context
        {"responses": unscored("a" + "_" * 63)},
        {"responses": unscored("x9", reward=math.nan)},  # not read
        {"responses": unscored("x9", reward=50.0, tokens=ids(1, 2))},
        {"responses": unscored("x9", segments=[segment()])},
        {"responses": [pb.Response(unscored="x"), response(unscored="y")]},
        {"responses": routed(ROUTED, (4, 3, 2, 1))},
        {"responses": routed(*[ROUTED] * 6, start=0)},
        {"responses": routed(ROUTED, start=5)},
        {"responses": unscored("x9", tokens=ids(1, 2), routed_experts=record(ROUTED))},
        {"responses": segmented(segment(routed_experts=record(ROUTED, start=4)))},
        {"sampling": pb.Sampling()},
        {"sampling": pb.Sampling(top_p=1.0, top_k=100, min_p=0.0)},
    ],
)
def test_at_the_limits_is_valid(changes: dict[str, Any]):
    assert isinstance(examine(group(**changes), LIMITS, KNOWN, NOW), Measures)


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 1}, {"min_p": 0.999}])
def test_truncated_sampling_is_taken_where_nothing_is_recomputed(sampling: dict[str, Any]):
    truncated = group(sampling=pb.Sampling(**sampling))
    assert isinstance(examine(truncated, TRUNCATING, KNOWN, NOW), Measures)
    assert isinstance(examine(truncated, LIMITS, KNOWN, NOW), Violation)


def test_the_bytes_of_records_are_counted():
    found = examine(group(responses=routed(ROUTED, ROUTED)), LIMITS, KNOWN, NOW)
    assert isinstance(found, Measures)
    assert found.routing == 8
    parts = segmented(segment(routed_experts=record(ROUTED)), segment(routed_experts=record(ROUTED, ROUTED)))
    found = examine(group(responses=parts), LIMITS, KNOWN, NOW)
    assert isinstance(found, Measures)
    assert found.routing == 12


def test_a_dense_models_group_has_no_experts():
    dense = LIMITS.model_copy(update={"routing": None})
    found = examine(group(responses=routed(ROUTED)), dense, KNOWN, NOW)
    assert isinstance(found, Violation)
    assert (found.reason, found.field) == ("routing_shape", "responses[1].routed_experts.layers")
    assert found.value == "2 layers (allowed: no record: the run's model has no experts)"


def test_more_than_256_experts_have_two_bytes_each():
    wide = LIMITS.model_copy(update={"routing": RoutingShape(layers=(1, 2), top_k=2, experts=300)})
    data = np.array([0, 299, 256, 1], "<u2").tobytes()
    assert validate(group(responses=routed(ids=data, experts=300)), wide, KNOWN) is None
    beyond = np.array([0, 1, 2, 300], "<u2").tobytes()
    found = validate(group(responses=routed(ids=beyond, experts=300)), wide, KNOWN)
    assert found is not None
    assert (found.reason, found.field) == ("routing_expert", "responses[1].routed_experts.ids[3]")


def test_as_many_segments_as_are_allowed():
    small = segment(context_tokens=ids(0), tokens=ids(1), spans=[pb.Span(version=3, start=0, end=1)])
    limits = LIMITS.model_copy(update={"max_response_context_tokens": 512})
    assert validate(group(responses=segmented(*[small] * 256)), limits, KNOWN) is None
    tight = LIMITS.model_copy(update={"max_response_context_tokens": 511})
    violation = validate(group(responses=segmented(*[small] * 256)), tight, KNOWN)
    assert violation is not None
    assert violation.reason == "response_too_long"


def test_a_single_longer_sequence_still_gets_a_micro_batch_of_its_own():
    tight = LIMITS.model_copy(update={"max_response_context_tokens": 1})
    assert validate(group(), tight, KNOWN) is None


def test_every_reason_is_in_the_contract():
    contract = Path("proto/leeway/v1/rollout.proto").read_text()
    reasons = {reason for reason, *_ in VIOLATIONS} | {"reward_mean_not_finite", "id_too_old", "id_in_future", *REASONS}
    assert [reason for reason in sorted(reasons) if not re.search(rf"\b{reason}\b[,.]", contract)] == []
    sources = [path.read_text() for path in Path("learner/gateway").glob("*.py")]
    written = {reason for source in sources for reason in re.findall(r'Violation\.of\(\s*"(\w+)"', source)}
    assert len(written) > 20
    assert written <= reasons


def test_a_response_of_the_most_spans_is_valid():
    long = LimitsConfig(vocab_size=100, max_response_tokens=4096)
    answer = response(tokens=ids(*[1] * 4096), spans=[pb.Span(version=3, start=i, end=i + 1) for i in range(4096)])
    assert validate(group(responses=[answer, answer]), long, KNOWN) is None


@pytest.mark.parametrize("edge", [0.7, 0.1, 1.3])
def test_limits_of_the_temperature_include_themselves_in_single_precision(edge: float):
    exact = LimitsConfig(vocab_size=100, temperature_range=(edge, edge))
    assert validate(group(temperature=edge), exact, KNOWN) is None
    for outside in (edge * 0.999, edge * 1.001):
        violation = validate(group(temperature=outside), exact, KNOWN)
        assert violation is not None
        assert violation.value.endswith(f"(allowed: {edge} to {edge})")


def test_a_mean_that_overflows_is_a_violation_though_no_reward_does():
    vast = LIMITS.model_copy(update={"reward_range": (-1.7e308, 1.7e308)})  # no configuration can have it
    violation = validate(group(responses=[response(reward=1.7e308)] * 2), vast, KNOWN)
    assert violation is not None
    assert (violation.reason, violation.field) == ("reward_mean_not_finite", "responses")
    assert violation.value.startswith("inf (allowed: ")


@pytest.mark.parametrize("value", [(-math.inf, 1.0), (0.0, math.inf), (math.nan, 1.0), (-2e18, 0.0), (1.0, 0.0)])
def test_a_reward_range_whose_squares_cannot_be_added_up_is_refused(value: tuple[float, float]):
    with pytest.raises(SettingsError, match=r"reward_range.*within -1e\+18 to 1e\+18"):
        LimitsConfig.parse({"vocab_size": 2, "reward_range": value}, "here")


@pytest.mark.parametrize("value", [(0.0, 1.0), (1e-50, 1.0), (1.0, math.inf), (math.nan, 1.0), (2.0, 1.0), (1.0, 1e39)])
def test_a_temperature_range_that_single_precision_cannot_hold_is_refused(value: tuple[float, float]):
    with pytest.raises(SettingsError, match=r"temperature_range.*within 1e-06 to 1e\+06"):
        LimitsConfig.parse({"vocab_size": 2, "temperature_range": value}, "here")


def test_no_object_is_made_of_responses_or_spans_that_are_too_many():
    """Counts what is read of a message of a million empty responses, and of a response of a million empty spans."""

    class Counted(list[Any]):
        made = 0

        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            Counted.made += len(found) if isinstance(key, slice) else 1
            return found

    class Message:
        def __init__(self, message: Any, **fields: Any) -> None:
            self._message = message
            self.__dict__.update(fields)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._message, name)

    crowded: Any = Message(group(), responses=Counted([response()] * 100_000))
    violation = validate(crowded, LIMITS, KNOWN)
    assert violation is not None
    assert violation.value == "100000 responses (allowed: 2 to 4)"
    answer = Message(response(), spans=Counted([pb.Span(version=3, start=0, end=1)] * 100_000))
    violation = validate(Message(group(), responses=[response(), answer]), LIMITS, KNOWN)  # pyright: ignore
    assert violation is not None
    assert violation.reason == "spans_many"
    assert Counted.made < 10


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
    measures = Measures(tokens=9 + 2 * 2, generated=9, responses=2, reward=0.5, versions={3})
    assert examine(valid, LIMITS, KNOWN) == measures
    flat = group(responses=[response(reward=0.25)] * 3)
    assert examine(flat, LIMITS, KNOWN) == Measures(18, 12, 3, 0.25, {3}, "without_contrast")


def test_a_group_with_segments_and_unscored_responses_is_measured():
    """By hand: prompt 2. A response of 4 tokens (6), segments of 2 + 3 and 1 + 3 (9), 1 unscored token (3), none (2)."""
    other = segment(context_tokens=ids(9), spans=[pb.Span(version=0, start=2, end=3)])
    responses = [*segmented(segment(), other), *unscored("judge", tokens=ids(1))[1:], pb.Response(unscored="judge")]
    expected = Measures(20, 4 + 6 + 1, 4, (0.5 + 0.25) / 2, {0, 3}, "", (("judge", 2),))
    assert examine(group(responses=responses), LIMITS, KNOWN) == expected


@pytest.mark.parametrize(
    ("rewards", "mean", "kind"),
    [
        ([0.5, 0.5], 0.5, "without_contrast"),
        ([0.0, -0.0, None], 0.0, "without_contrast"),
        ([0.5, None], 0.5, "unscored"),
        ([None, None, None], None, "unscored"),
        ([0.0, 1.0, None], 0.5, ""),
    ],
)
def test_what_a_group_is_counted_as(rewards: list[float | None], mean: float | None, kind: str):
    responses = [response(unscored="lost", reward=math.inf) if one is None else response(reward=one) for one in rewards]
    found = examine(group(responses=responses), LIMITS, KNOWN)
    assert isinstance(found, Measures)
    lost = rewards.count(None)
    assert (found.reward, found.kind, found.unscored) == (mean, kind, (("lost", lost),) if lost else ())


MADE = 0x01890A5DAC96 / 1000  # the time in UUID7, Unix seconds


@pytest.mark.parametrize(
    ("memory_s", "age_s", "reason"),
    [
        (86_400, 1e9, None),  # the queue alone knows what it remembers: a group that is still queued is a duplicate
        (86_400, -600.0, None),
        (86_400, -601.0, "id_in_future"),
        (120, -15.0, None),
        (120, -16.0, "id_in_future"),
    ],
)
def test_the_time_in_an_id_is_not_in_the_future(memory_s: float, age_s: float, reason: str | None):
    violation = id_time_violation(UUID7, memory_s, MADE + age_s)
    assert (violation and violation.reason) == reason


def test_a_violation_of_the_time_in_an_id_says_how_old_it_is_and_what_is_allowed():
    old = forgotten_violation(UUID7)
    ahead = id_time_violation(UUID7, 86_400, MADE - 3600)
    assert old == Violation(
        "id_too_old",
        "group_id",
        f"{UUID7} (allowed: one that the queue still remembers: send a group again within queue.id_memory_s)",
    )
    assert ahead == Violation(
        "id_in_future",
        "group_id",
        f"{UUID7}, made in 3600 s (allowed: at most 600 s ahead of the gateway's clock)",
    )

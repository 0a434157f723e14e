"""Tests the gateway's parser and validator with hostile messages: a short run, and hypothesis. `make fuzz` runs long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.config import LimitsConfig
from leeway.v1 import operator_pb2 as op
from leeway.v1 import rollout_pb2 as pb
from tests.fuzz.messages import LIMITS, FoundError, Target, run
from tests.fuzz.mutations import VERSIONS, Corpus, broken, mangled, valid
from tests.fuzz.reference import problems
from tests.service.fleet import tokens, valid_group

SEGMENT = pb.Segment(context_tokens=tokens([1]), tokens=tokens([1]), spans=[pb.Span(version=0, start=0, end=1)])
ONLY = {"tokens": b"", "spans": []}  # nothing but segments


def test_a_short_run_finds_nothing():
    result = run(20_000, seed=3)
    assert (result.messages, result.outcomes.total() > 20_000) == (20_000, True)
    assert min(result.outcomes[outcome] for outcome in ("accepted", "rejected", "undecodable")) > 1000
    assert result.end_mib - result.start_mib < 16


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes(message: bytes):
    target = Target()
    assert set(target.submit(message)) <= {"rejected", "undecodable"}
    target.call(message)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 2**32), max_size=4))
@settings(max_examples=300, deadline=None)
def test_valid_and_broken_groups_mangled(seed: int, damages: list[int]):
    rng = random.Random(seed)
    message, other = (make(rng).SerializeToString() for make in (valid, broken))
    for damage in damages:
        message = mangled(random.Random(damage), message, other) or other
    Target().submit(message)


@given(st.text(max_size=70), st.lists(st.text(max_size=20), max_size=3), st.text(max_size=70))
@settings(max_examples=200, deadline=None)
def test_any_identity_that_an_operator_may_add_is_one_that_gateways_know(name: str, words: list[str], digest: str):
    request = op.AddIdentityRequest(name=name, roles=words[:1], sans=words[1:], token_sha256=digest)
    Target().call(request.SerializeToString())


def test_what_is_valid_is_accepted():
    rng = random.Random(5)
    target = Target()
    for _ in range(200):
        assert target.submit(valid(rng).SerializeToString()) == ["accepted"]


def test_groups_in_one_message_are_judged_one_by_one():
    rng = random.Random(6)
    request = valid(rng)
    request.more.add().CopyFrom(pb.SubmitRequest(group=valid_group(temperature=-1.0)))
    request.more.add().more.add().CopyFrom(valid(rng))
    assert Target().submit(request.SerializeToString()) == ["accepted", "rejected", "rejected", "accepted"]


def test_giant_messages():
    target, corpus = Target(), Corpus(1, size=2)
    outcomes = [outcome for _ in range(20) for outcome in target.submit(corpus.giant())]
    assert set(outcomes) <= {"accepted", "rejected", "undecodable"}  # the last: more fields than a message may have


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group_id", "0" * 36),
        ("prompt_id", ""),
        ("task", "x" * 65),
        ("temperature", float("nan")),
        ("temperature", 0.0),
        ("temperature", 1e-38),
        ("temperature", 10.5),
        ("prompt_id", "a\x1b[2J"),
        ("task", "a\nb"),
        ("prompt_tokens", b""),
        ("prompt_tokens", b"\x01\x00\x00"),
        ("prompt_tokens", tokens([100])),
        ("prompt_tokens", tokens([-1])),
        ("prompt_tokens", tokens([1] * 9)),
    ],
)
def test_the_reference_sees_what_is_wrong_with_a_group(field: str, value: object):
    group = valid_group()
    assert problems(group.SerializeToString(), LIMITS, VERSIONS) == []
    setattr(group, field, value)
    assert problems(group.SerializeToString(), LIMITS, VERSIONS) == [field]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"reward": float("nan")}, "reward"),
        ({"reward": 10.1}, "reward"),
        ({"tokens": tokens([1] * 17)}, "tokens"),
        ({"spans": []}, "no spans"),
        ({"spans": [pb.Span(version=3, start=0, end=1)]}, "version"),
        ({"spans": [pb.Span(version=1, start=0, end=5)]}, "span"),
        ({"spans": [pb.Span(version=1, start=1, end=1)]}, "span"),
        ({"spans": [pb.Span(version=1, start=0, end=2), pb.Span(version=1, start=1, end=3)]}, "spans overlap"),
        ({"reward_parts": {"x": float("inf")}}, "reward part"),
        ({"reward_parts": {"": 0.0}}, "reward part"),
        ({"finish_reason": 4}, "finish_reason"),
        ({"reward_parts": {str(number): 0.0 for number in range(33)}}, "reward_parts"),
        ({"unscored": "Crash"}, "unscored"),
        ({"unscored": "a" * 65}, "unscored"),
        ({"unscored": "x", "tokens": tokens([100]), "spans": []}, "tokens"),
        ({"segments": [SEGMENT]}, "mixed"),
        ({**ONLY, "segments": [SEGMENT] * 257}, "many segments"),
        ({**ONLY, "segments": [SEGMENT] * 17}, "too long"),
        ({**ONLY, "segments": [pb.Segment(tokens=SEGMENT.tokens, spans=SEGMENT.spans)]}, "context_tokens"),
        ({**ONLY, "segments": [pb.Segment(context_tokens=SEGMENT.tokens, tokens=SEGMENT.tokens)]}, "no spans"),
    ],
)
def test_the_reference_sees_what_is_wrong_with_a_response(changes: dict, found: str):
    group = valid_group()
    fields = {"tokens": tokens([1] * 4), "spans": [pb.Span(version=0, start=0, end=4)], **changes}
    group.responses[1].CopyFrom(pb.Response(**fields))
    limits = LIMITS.model_copy(update={"max_response_context_tokens": 600}) if found == "many segments" else LIMITS
    assert problems(group.SerializeToString(), limits, VERSIONS) == [found]


@pytest.mark.parametrize(
    ("sampling", "found"),
    [
        ({"top_p": 0.0}, ["sampling"]),
        ({"top_p": float("nan")}, ["sampling"]),
        ({"top_k": 0}, ["sampling"]),
        ({"min_p": 1.0}, ["sampling"]),
        ({"top_p": 0.9}, ["truncated"]),
        ({"top_k": 99}, ["truncated"]),
        ({"min_p": 0.1}, ["truncated"]),
        ({"top_p": 1.0, "top_k": 100, "min_p": 0.0}, []),
    ],
)
def test_the_reference_sees_what_is_wrong_with_sampling(sampling: dict, found: list[str]):
    payload = valid_group(sampling=pb.Sampling(**sampling)).SerializeToString()
    assert problems(payload, LIMITS, VERSIONS) == found
    taking = LIMITS.model_copy(update={"truncated_sampling": True})
    assert problems(payload, taking, VERSIONS) == [one for one in found if one == "sampling"]


def test_the_reference_wants_a_span_in_the_group():
    group = valid_group()
    for response in group.responses:
        response.CopyFrom(pb.Response(unscored="crash", reward=float("nan")))
    assert problems(group.SerializeToString(), LIMITS, VERSIONS) == ["no spans in the group"]


def test_a_gateway_that_accepts_too_much_is_found(monkeypatch: pytest.MonkeyPatch):
    loose = LimitsConfig(**{**LIMITS.model_dump(), "vocab_size": 200})
    monkeypatch.setattr("tests.fuzz.messages.LIMITS", loose)
    target = Target()
    monkeypatch.setattr("tests.fuzz.messages.LIMITS", LIMITS)
    request = pb.SubmitRequest(group=valid_group(prompt_tokens=tokens([150])))
    with pytest.raises(FoundError, match="accepted in spite of prompt_tokens"):
        target.submit(request.SerializeToString())

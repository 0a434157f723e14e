"""The law, and what a breach of it says."""

from __future__ import annotations

import pytest

from learner.queue import check
from learner.queue.ledger import decode
from leeway.v1 import rollout_pb2 as pb

BALANCED = {
    "fleet": "f", "received": 20, "accepted": 12, "duplicate": 3, "rejected": 1, "retried": 4, "trained": 5, "expired": 2,
    "queued": 4, "in_flight": 1, "rejected_by_reason": {"reward_not_finite": 1},
}  # fmt: skip


def test_a_balanced_ledger():
    assert check(pb.Ledger(**BALANCED)) == []
    assert check(pb.Ledger(fleet="new")) == []


@pytest.mark.parametrize(
    ("field", "breaches"),
    [
        ("received", ["received 21"]),
        ("accepted", ["received 20", "accepted 13"]),
        ("duplicate", ["duplicate 4"]),
        ("rejected", ["rejected 2", "sum by reason 1"]),
        ("retried", ["retried 5"]),
        ("trained", ["trained 6"]),
        ("expired", ["expired 3"]),
        ("queued", ["queued 5"]),
        ("in_flight", ["in_flight 2"]),
    ],
)
def test_any_number_that_is_off_by_one_is_found(field: str, breaches: list[str]):
    violations = check(pb.Ledger(**{**BALANCED, field: BALANCED[field] + 1}))
    assert len(violations) == len(breaches)
    for violation, text in zip(violations, breaches, strict=True):
        assert text in violation
        assert "'f'" in violation


def test_the_difference_is_said():
    assert "(difference +2)" in check(pb.Ledger(**{**BALANCED, "queued": 2}))[0]


def test_decode():
    fields = [b"received", b"3", b"accepted", b"2", b"rejected", b"1", b"rejected:temperature", b"1", b"bytes", b"99"]
    ledger = decode("f", [fields, 2, 0])
    assert ledger == pb.Ledger(
        fleet="f", received=3, accepted=2, rejected=1, queued=2, rejected_by_reason={"temperature": 1}
    )

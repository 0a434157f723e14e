"""Tests of the accounting invariant, and of the messages on violations of it."""

from __future__ import annotations

import pytest

from learner.queue import imbalances
from learner.queue.ledger import decode
from leeway.v1 import rollout_pb2 as pb

BALANCED = {
    "fleet": "f", "received": 20, "accepted": 12, "duplicate": 3, "rejected": 1, "retried": 4, "trained": 5, "expired": 2,
    "queued": 4, "in_flight": 1, "rejected_by_reason": {"reward_not_finite": 1}, "retried_by_reason": {"queue_full": 4},
}  # fmt: skip


def test_a_balanced_ledger():
    assert imbalances(pb.Ledger(**BALANCED)) == []
    assert imbalances(pb.Ledger(fleet="new")) == []


@pytest.mark.parametrize(
    ("field", "breaches"),
    [
        ("received", ["received 21"]),
        ("accepted", ["received 20", "accepted 13"]),
        ("duplicate", ["duplicate 4"]),
        ("rejected", ["rejected 2", "sum by reason 1"]),
        ("retried", ["retried 5", "sum by reason 4"]),
        ("trained", ["trained 6"]),
        ("expired", ["expired 3"]),
        ("quarantined", ["quarantined 1"]),
        ("queued", ["queued 5"]),
        ("in_flight", ["in_flight 2"]),
    ],
)
def test_any_number_that_is_off_by_one_is_found(field: str, breaches: list[str]):
    violations = imbalances(pb.Ledger(**{**BALANCED, field: BALANCED.get(field, 0) + 1}))
    assert len(violations) == len(breaches)
    for violation, text in zip(violations, breaches, strict=True):
        assert text in violation
        assert "'f'" in violation


def test_what_moved_no_weight_is_part_of_what_was_trained():
    assert imbalances(pb.Ledger(**BALANCED, without_contrast=3, unscored=2)) == []
    (violation,) = imbalances(pb.Ledger(**BALANCED, without_contrast=4, unscored=2))
    assert violation == "fleet 'f': trained 5 < without_contrast 4 + unscored 2 = 6"


def test_the_difference_is_said():
    assert "(difference +2)" in imbalances(pb.Ledger(**{**BALANCED, "queued": 2}))[0]


def test_a_lost_group_is_named_even_when_the_sums_agree():
    (violation,) = imbalances(pb.Ledger(**{**BALANCED, "trained": 4}, lost=1))
    assert "'f': lost 1" in violation


def test_decode():
    counts = {"received": 5, "accepted": 2, "rejected": 1, "rejected:temperature": 1, "retried": 2, "retried:full": 2}
    counts |= {"bytes": 99, "bytes_done": 40, "lost": 0, "redelivered": 3, "quarantined": 6}
    counts |= {"without_contrast": 3, "unscored": 4, "unscored_reasons": 2}
    counts |= {"unscored:judge": 5, "unscored:other": 1}
    counts |= {"length:trained:1": 1, "length:expired:8": 2, "length:trained:4": 3}
    counts |= {"reward:trained:-4": 1, "reward:trained:0.9": 2, "reward:trained:2": 3, "reward:trained:-1.0": 4}
    flat = [text for name, count in counts.items() for text in (name.encode(), str(count).encode())]
    ledger = decode("f", [flat, 2, 0, 7])
    assert [(b.measure, b.outcome, b.lower, b.upper, b.count) for b in ledger.histogram] == [
        (pb.MEASURE_LENGTH, "expired", 4, 8, 2),
        (pb.MEASURE_LENGTH, "trained", 0, 1, 1),
        (pb.MEASURE_LENGTH, "trained", 2, 4, 3),
        (pb.MEASURE_REWARD, "trained", -4, -2, 1),
        (pb.MEASURE_REWARD, "trained", -1, -0.9, 4),
        (pb.MEASURE_REWARD, "trained", 0.9, 1, 2),
        (pb.MEASURE_REWARD, "trained", 2, 4, 3),
    ]
    ledger.ClearField("histogram")
    assert ledger == pb.Ledger(
        fleet="f", received=5, accepted=2, rejected=1, retried=2, queued=2, bytes=99, queued_bytes=59, redelivered=3,
        quarantined=6, without_contrast=3, unscored=4, unscored_responses_by_reason={"judge": 5, "other": 1},
        vanished=7, rejected_by_reason={"temperature": 1}, retried_by_reason={"full": 2},
    )  # fmt: skip

"""When a fleet whose groups expire is passed over, and how much credit it gets back."""

from __future__ import annotations

from learner.queue.expiry_bound import ExpiryBound
from learner.queue.fairness import DeficitRoundRobin


def test_a_fleet_is_passed_over_after_64_expiries_in_a_row_and_from_then_on_after_one_a_take():
    bound = ExpiryBound()
    bound.begin_take()
    for _ in range(63):
        bound.expired("stale")
    bound.expired("other")
    assert bound.passed_over() == set()
    bound.expired("stale")
    assert bound.passed_over() == {"stale"}
    bound.begin_take()
    assert bound.passed_over() == set()
    bound.expired("stale")
    assert bound.passed_over() == {"stale"}
    bound.trainable("stale")
    assert bound.passed_over() == set()


def test_credit_of_64_expiries_in_a_row_comes_back_over_all_takes_until_a_group_can_be_trained_on():
    bound = ExpiryBound()
    given_back = []
    for _ in range(5):
        bound.begin_take()
        given_back += [bound.expired("stale") for _ in range(20)]
    assert given_back == [True] * 64 + [False] * 36
    bound.trainable("stale")
    assert bound.expired("stale")


def test_fleets_whose_groups_all_expire_cannot_keep_the_others_from_their_turn():
    """Any number of such fleets, one group a take: the fresh fleet is served again and again."""
    bound, fair = ExpiryBound(), DeficitRoundRobin()
    queues = {f"stale-{number}": [10] for number in range(30)} | {"with fresh groups": [10]}
    served = 0
    for _ in range(30 * 64 + 31 * 10):
        bound.begin_take()
        (fleet,) = fair.choose(queues, 1)
        served += fleet == "with fresh groups"
        if fleet != "with fresh groups" and bound.expired(fleet):
            fair.refund(fleet, 10)
    assert served >= 10

"""Leases that a gateway granted itself: counted down, expired, given back."""

from __future__ import annotations

from learner.queue.own_grants import OwnGrants


def test_a_grant_covers_as_many_groups_as_it_promises_until_it_expires():
    grants = OwnGrants()
    grants.note("a", 2, expires=60.0, now=0.0)
    grants.note("b", 2, expires=60.0, now=0.0)
    assert [grants.spend("a", 1.0) for _ in range(3)] == [True, True, False]
    assert [grants.spend("b", 59.0), grants.spend("b", 60.0)] == [True, False]
    assert not grants.spend("unknown", 0.0)


def test_what_is_given_back_or_has_expired_is_forgotten():
    grants = OwnGrants()
    for i in range(100):
        grants.note(f"{i}", 1, expires=i + 10.0, now=float(i))
    assert len(grants._known) == 10
    grants.forget("95")
    assert not grants.spend("95", 99.0)
    assert grants.spend("96", 99.0)

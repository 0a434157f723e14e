"""Versions of which a gateway refuses groups: before and after a rollback, and never one that the learner would train."""

from __future__ import annotations

import random

from learner.gateway.version_ages import VersionAges
from learner.queue import VERSIONS_KEPT, Timeline, VersionRegistry
from leeway.v1 import rollout_pb2 as pb


def policy(version: int, step: int, epoch: int = 1) -> pb.Policy:
    return pb.Policy(version=version, step=step, epoch=epoch)


def test_what_is_too_stale_follows_the_newest_version():
    ages = VersionAges(3)
    ages.add([policy(version, version) for version in range(5)], [Timeline(1, 0)])
    assert (ages.known, ages.epoch) == ({0, 1, 2, 3, 4}, 1)
    assert ages.too_stale({1, 4}) is None
    assert ages.too_stale({0, 4}) == ({0: 4}, 3)
    ages.add([policy(5, 5)])
    assert ages.too_stale({1, 4}) == ({1: 4}, 3)
    assert VersionAges(None).too_stale({0}) is None


def test_a_rollback_makes_versions_fresh_again_and_those_of_the_lost_steps_stale():
    ages = VersionAges(3)
    ages.add([policy(version, version) for version in range(11)], [Timeline(1, 0)])
    assert ages.too_stale({4}) == ({4: 6}, 3)
    # Epoch 2 has resumed at step 6, and epoch 3 at 2: it has published nothing, so the newest version's step is not its own.
    ages.add([policy(11, 6, 2)], [Timeline(1, 0), Timeline(2, 6), Timeline(3, 2)])
    assert ages.too_stale({3, 9, 11}) is None
    assert ages.too_stale({2, 10}) == ({2: 4, 10: 4}, 3)


def test_versions_that_redis_has_forgotten_are_forgotten():
    ages = VersionAges(9)
    ages.add([policy(version, version) for version in range(VERSIONS_KEPT + 2)], [Timeline(1, 0)])
    assert min(ages.known) == 2


def test_the_deciding_versions_have_the_staleness_of_all_whatever_rollbacks_follow():
    draw = random.Random(3)
    for _ in range(200):
        registry, ages, step, version = VersionRegistry(), VersionAges(None), 0, 0
        for epoch in range(1, 5):
            step = draw.randint(0, step)
            registry.begin(Timeline(epoch, step))
            for _ in range(draw.randint(1, 8)):
                registry.add(version, step, epoch)
                ages.add([policy(version, step, epoch)])
                version, step = version + 1, step + draw.randint(1, 2)
        group = draw.sample(range(version), draw.randint(1, version))
        deciding = ages.deciding(group)
        for later in range(5, 8):  # the queue's entry stays as it is
            assert max(registry.staleness(one, step) for one in deciding) == max(
                registry.staleness(one, step) for one in group
            )
            step = draw.randint(0, step)
            registry.begin(Timeline(later, step))
        assert len(deciding) <= 2 * 4

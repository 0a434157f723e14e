"""Tests of staleness over several forks, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.queue.version_registry import Timeline, UnknownVersionError, VersionRegistry


def three_epochs() -> VersionRegistry:
    """Registry of a run with three timelines.

    Epoch 1 publishes version v at step v up to 10; epoch 2 resumes at 6 and publishes 11..16 at steps 7..12; epoch 3
    resumes at 8 (a checkpoint of epoch 2) and publishes 17 at step 9.

        0 . . . . . 6 7 8 9 10          epoch 1: versions 0-10
                    \\ 7 8 9 10 11 12    epoch 2: versions 11-16
                        \\ 9             epoch 3: version 17
    """
    registry = VersionRegistry()
    registry.begin(Timeline(1, 0))
    for step in range(11):
        registry.add(step, step, 1)
    registry.begin(Timeline(2, 6))
    for step in range(7, 13):
        registry.add(step + 4, step, 2)
    registry.begin(Timeline(3, 8))
    registry.add(17, 9, 3)
    return registry


@pytest.mark.parametrize(
    ("version", "step", "expected", "why"),
    [
        (0, 9, 9, "on the trunk"),
        (6, 9, 3, "the fork itself is on the trunk"),
        (7, 9, 4, "one step off at 6, then 6 -> 9"),
        (10, 9, 7, "four steps back to 6, then 6 -> 9"),
        (11, 9, 2, "epoch 2's step 7 survives: 7 -> 9"),
        (12, 9, 1, "epoch 2's step 8, where epoch 3 forked"),
        (13, 9, 2, "epoch 2's step 9, lost: back to 8, then 8 -> 9"),
        (16, 9, 5, "four steps back to 8, then 8 -> 9"),
        (17, 9, 0, "just published"),
        (16, 20, 16, "four back, twelve since"),
        (17, 20, 11, "on the trunk"),
    ],
)
def test_by_hand(version: int, step: int, expected: int, why: str):
    assert three_epochs().staleness(version, step) == expected, why


def test_a_later_fork_below_an_earlier_one_takes_both_off():
    registry = three_epochs()
    registry.begin(Timeline(4, 4))  # an old checkpoint: what epochs 1 to 3 did after 4 is lost
    assert registry.staleness(10, 5) == (10 - 4) + (5 - 4)
    assert registry.staleness(16, 5) == (12 - 4) + (5 - 4)
    assert registry.staleness(4, 5) == 1


def test_before_the_first_step():
    registry = VersionRegistry()
    registry.begin(Timeline(1, 0))
    registry.add(0, 0, 1)
    assert registry.staleness(0, 0) == 0
    registry.begin(Timeline(2, 0))  # crashed before its first checkpoint
    assert registry.staleness(0, 3) == 3


def test_unknown_version():
    with pytest.raises(UnknownVersionError, match="version 99"):
        three_epochs().staleness(99, 9)


def test_newest_counts_orphans():
    assert VersionRegistry().newest() is None
    assert three_epochs().newest() == 17


def test_timeline_survives_json():
    assert Timeline.from_json(Timeline(7, 350).to_json()) == Timeline(7, 350)


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0, 1)), min_size=1, max_size=6))
def test_equals_the_walk_in_the_tree_of_steps(epochs: list[tuple[int, float]]):
    """Compares with the definition: builds the tree of states step by step, walks from a version to the surviving line."""
    registry = VersionRegistry()
    line = [(0, 0)]  # the surviving line of states (epoch, step), from step 0
    parent: dict[tuple[int, int], tuple[int, int] | None] = {(0, 0): None}
    states = []
    for number, (steps, where) in enumerate(epochs, start=1):
        resumed = int(where * (len(line) - 1))
        line = line[: resumed + 1]
        registry.begin(Timeline(number, resumed))
        for _ in range(steps):
            state = (number, len(line))
            parent[state] = line[-1]
            line.append(state)
            states.append(state)
            registry.add(len(states), state[1], number)
    now = len(line) - 1
    for version, state in enumerate(states, start=1):
        walked = 0
        at = state
        while at not in line:
            walked += 1
            at = parent[at]
            assert at is not None
        assert registry.staleness(version, now) == walked + now - line.index(at)


def test_versions_that_groups_may_still_carry():
    """At epoch 3's step 9: staleness 1 and 0 on the trunk, 2 across the fork at 6 -> see the cases above."""
    registry = three_epochs()
    assert registry.fresh(range(20), 0) == {17}
    assert registry.fresh(range(20), 2) == {11, 12, 13, 17}  # 13: step 9 of epoch 2, one back to 8, one on
    assert registry.fresh([6, 10, 12, 99], 3) == {6, 12}
    assert VersionRegistry().fresh([0, 1], 10) == set()


def test_a_registry_forgets_what_redis_forgets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("learner.queue.version_registry.VERSIONS_KEPT", 3)
    registry = VersionRegistry()
    for version in range(10):
        registry.add(version, version, 1)
    assert registry.staleness(7, 9) == 2
    with pytest.raises(UnknownVersionError):
        registry.staleness(6, 9)

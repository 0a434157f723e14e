"""Tests that the held-out prompts are a fixed share that every process agrees on."""

from __future__ import annotations

from rollout.tasks.held_out import is_held_out

_IDS = [f"sort:{number:06}" for number in range(20_000)]


def test_the_share_of_held_out_prompts():
    held = sum(is_held_out(one, 0.05) for one in _IDS)
    assert 900 < held < 1100  # 1000 expected, standard deviation 31


def test_none_without_a_share():
    assert not any(is_held_out(one, 0.0) for one in _IDS)


def test_a_larger_share_contains_a_smaller_one():
    small = {one for one in _IDS if is_held_out(one, 0.01)}
    assert small < {one for one in _IDS if is_held_out(one, 0.1)}


def test_it_stays_the_same_over_releases():
    # Written down once: another rule would train on what earlier versions of a run were evaluated with.
    assert [one for one in _IDS[:600] if is_held_out(one, 0.01)] == [
        "sort:000073",
        "sort:000205",
        "sort:000216",
        "sort:000226",
        "sort:000288",
        "sort:000590",
    ]

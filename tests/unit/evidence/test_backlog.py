"""The queue: tokens of step t come from the version of step t - S, exactly, and each group is trained once."""

from __future__ import annotations

import itertools

import pytest

from leeway.v1 import rollout_pb2 as pb
from tests.evidence.backlog import Backlog, ages
from tests.evidence.cell import Cell, Staleness


class _Fleet:
    """Makes groups that carry their version and a number of their own."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def generate(self, version: int, count: int) -> list[pb.Group]:
        return [pb.Group(prompt_id=f"{version}:{next(self._numbers)}") for _ in range(count)]


def _trained(staleness: Staleness, steps: int, prompts: int = 4) -> list[list[tuple[int, int]]]:
    """(version, number) of the groups that each step of a run trains."""
    cell = Cell(task="sort", objective="spo", lr=1e-3, staleness=staleness, steps=steps, prompts=prompts)
    fleet = _Fleet()
    backlog = Backlog(cell, fleet.generate)
    steps_groups = []
    for step in range(steps):
        backlog.put(step, fleet.generate(step, prompts))
        taken = backlog.take(step)
        steps_groups.append([tuple(map(int, group.prompt_id.split(":"))) for group in taken])
    return steps_groups


@pytest.mark.parametrize("staleness", [0, 1, 4, 16])
def test_the_lag_is_exact_and_the_queue_begins_with_version_0(staleness: int):
    trained = _trained(staleness, steps=40)
    for step, groups in enumerate(trained):
        assert [version for version, _ in groups] == [max(0, step - staleness)] * 4, step


@pytest.mark.parametrize("staleness", [0, 4, "mixed", "jump"])
def test_no_group_is_trained_twice_and_every_step_is_full(staleness: Staleness):
    trained = _trained(staleness, steps=160)
    numbers = [number for groups in trained for _, number in groups]
    assert len(numbers) == len(set(numbers)) == 4 * 160


def test_the_queue_is_full_before_the_first_step():
    assert [number for _, number in _trained(4, steps=6)[0]] == [0, 1, 2, 3]  # the first that were sampled at all


def test_a_mixture_has_a_quarter_of_each_age():
    trained = _trained("mixed", steps=80, prompts=8)
    assert [version for version, _ in trained[70]] == [70, 70, 66, 66, 54, 54, 6, 6]


def test_a_jump_goes_from_fresh_to_64_steps_old_at_half_of_the_run():
    versions = [{version for version, _ in groups} for groups in _trained("jump", steps=200)]
    assert versions[99] == {99}
    assert versions[100] == {36}
    assert versions[199] == {135}


def test_ages_are_those_of_the_cell():
    cell = Cell(task="sort", objective="spo", lr=1e-3, staleness=7, prompts=3)
    assert ages(cell, 0) == [7, 7, 7]

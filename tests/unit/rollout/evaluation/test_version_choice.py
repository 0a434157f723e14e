"""Which version is evaluated next, while versions are announced faster than they are evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.config.evaluation import EvaluationConfig
from rollout.evaluation.version_choice import VersionChoice


def policy(version: int) -> pb.Policy:
    return pb.Policy(version=version, step=version)


def played(events: str, evaluated: tuple[int, ...] = (), pending: int | None = None, **settings: Any) -> list[int]:
    """What is evaluated: a number announces a version, "e" evaluates what is due, "." ends the run."""
    before = None if pending is None else policy(pending)
    choice, found = VersionChoice(EvaluationConfig(**settings), evaluated, before), []
    for event in events.split():
        if event == "e":
            if (due := choice.due()) is not None:
                found.append(due.version)
                choice.done(due.version)
        elif event == ".":
            choice.end()
        else:
            choice.announced(policy(int(event)))
    return found


@pytest.mark.parametrize(
    ("events", "settings", "expected"),
    [
        ("0 e 1 e 2 e 3 e 4 e . e", {"every": 2}, [0, 2, 4]),
        ("0 e 1 e 2 e 3 e . e e", {"every": 2}, [0, 2, 3]),
        ("0 1 2 3 4 5 e e e", {"every": 2}, [0, 5]),  # the first was kept; then the newest, those between passed over
        ("0 e 1 2 e 3 . e e", {"every": 0}, [0, 3]),
        ("0 e 1 e 2 e . e", {"every": 2, "first": False}, [2]),
        ("0 e 1 e . e", {"every": 0, "final": False}, [0]),
        ("0 e 1 e 2 e . e e e", {"every": 0, "at_end": True}, [0, 2]),
        ("0 . e e e", {"every": 0, "at_end": True}, [0]),
        (". e", {"every": 1}, []),
    ],
)
def test_the_first_every_nth_and_the_last(events: str, settings: dict[str, Any], expected: list[int]):
    assert played(events, **settings) == expected


def test_a_process_that_comes_after_another_one_goes_on_where_that_was():
    assert played("4 e 5 e 6 e", evaluated=(0, 4), every=2) == [6]
    assert played("9 e e", pending=0, every=0, at_end=True) == []
    assert played("9 e . e e e", pending=0, every=0, at_end=True) == [0, 9]
    assert played("9 . e e", evaluated=(0, 9), pending=0, every=0) == []


def test_a_version_that_is_due_stays_chosen_until_it_is_done():
    choice = VersionChoice(EvaluationConfig(every=1), ())
    for version in range(5):
        choice.announced(policy(version))
        assert choice.pending is not None
        assert choice.pending.version == 0
    choice.done(0)
    assert choice.pending is not None
    assert choice.pending.version == 4

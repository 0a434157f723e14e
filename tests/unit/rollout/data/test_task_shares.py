"""The order in which the tasks of a mixture are asked: shares hold over any stretch, and go on after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.data.prompt_cursor import CursorError
from rollout.data.task_shares import TaskShares

WEIGHTS = st.lists(st.floats(0.05, 5.0), min_size=1, max_size=6)


def shares(path: Path, *weights: float) -> TaskShares:
    return TaskShares(path, {f"task-{number}": weight for number, weight in enumerate(weights)})


def test_three_to_one_by_hand(tmp_path: Path):
    """Credits after each step: (3/4, 1/4) draw 0 -> (-1/4, 1/4); (1/2, 1/2) the first; (1/4, 3/4) draw 1; (1, 0) draw 0."""
    mixture = shares(tmp_path / "shares.json", 3.0, 1.0)
    assert [mixture.draw() for _ in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]


@settings(deadline=None)  # the machine may be busy
@given(WEIGHTS, st.integers(0, 200), st.integers(1, 200))
def test_every_stretch_has_the_shares(weights: list[float], start: int, length: int):
    mixture = shares(Path("/nowhere"), *weights)
    drawn = [mixture.draw() for _ in range(start + length)][start:]
    for task, weight in enumerate(weights):
        assert abs(drawn.count(task) - length * weight / sum(weights)) < max(2, len(weights))


def test_what_was_drawn_and_is_not_done_is_drawn_again_after_a_restart(tmp_path: Path):
    path = tmp_path / "state" / "shares.json"
    whole = shares(tmp_path / "other.json", 5.0, 2.0, 1.0)
    expected = [whole.draw() for _ in range(40)]
    mixture = shares(path, 5.0, 2.0, 1.0)
    drawn = [mixture.draw() for _ in range(20)]
    mixture.done(drawn[:8])
    mixture.done(drawn[8:13])
    mixture = shares(path, 5.0, 2.0, 1.0)
    assert drawn[:13] + [mixture.draw() for _ in range(27)] == expected


def test_a_task_of_little_weight_has_its_share_however_often_the_worker_is_restarted(tmp_path: Path):
    path, drawn = tmp_path / "shares.json", []
    for _ in range(100):
        mixture = shares(path, 0.95, 0.05)
        done = [mixture.draw() for _ in range(5)]
        mixture.done(done)
        drawn += done
    assert abs(drawn.count(1) - 25) <= 1


def test_a_task_that_is_added_is_not_caught_up_and_one_that_goes_leaves_no_debt(tmp_path: Path):
    path = tmp_path / "shares.json"
    before = TaskShares(path, {"old": 1.0, "gone": 1.0})
    before.done([0] * 100)  # the other one has 50 prompts of credit
    now = TaskShares(path, {"old": 1.0, "new": 1.0})
    drawn = [now.draw() for _ in range(200)]
    assert [drawn[start : start + 20].count(1) for start in range(0, 200, 20)] == [10] * 10


def test_a_mixture_of_one_writes_nothing(tmp_path: Path):
    mixture = shares(tmp_path / "shares.json", 0.5)
    assert [mixture.draw() for _ in range(3)] == [0, 0, 0]
    mixture.done([0, 0, 0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"credit": 3}', '{"credit": {"a": "x"}}', '{"credit": {"a": NaN}}']
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str):
    path = tmp_path / "worker-0.shares.json"
    path.write_text(content)
    with pytest.raises(CursorError, match=r"worker-0\.shares\.json: damaged shares of tasks .* delete it"):
        shares(path, 1.0, 2.0)


def test_the_file_is_small(tmp_path: Path):
    mixture = shares(tmp_path / "shares.json", 1.0, 1.0)
    mixture.done([0, 1, 1])
    assert json.loads((tmp_path / "shares.json").read_text()) == {"credit": {"task-0": 0.5, "task-1": -0.5}}

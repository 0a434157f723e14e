"""What a worker remembers of prompts: which rest, for how long, what a restart keeps, and what a group costs to note."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from rollout.config import RestConfig
from rollout.data.prompt_cursor import CursorError
from rollout.data.prompt_memory import PromptMemory, has_contrast

PROMPTS = {"task.name": "gsm8k", "prompts in a pass": 10}
SIZE = 10


def memory(path: Path, after: int = 2, passes: int = 2, size: int = SIZE, **changed: object) -> PromptMemory:
    return PromptMemory(path, size, RestConfig(after=after, passes=passes), PROMPTS | changed)


def at(row: int, passes: int) -> int:
    """The index of a row in a pass."""
    return passes * SIZE + row


def asked_in(found: PromptMemory, row: int, passes: range) -> list[int]:
    """The passes in which a row is asked."""
    return [one for one in passes if found.rests(at(row, one)) is None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "worker-0.gsm8k.memory.jsonl"


@pytest.mark.parametrize(
    ("rewards", "contrast"),
    [
        ([1.0, 1.0], False),
        ([1.0, 0.0], True),
        ([0.1 + 0.2, 0.3], False),
        ([-5.0, -5.0, -5.00001], True),
        ([1e6, 1e6 + 0.5], False),
    ],
)
def test_rewards_have_contrast_where_they_differ_by_more_than_rounding(rewards: list[float], contrast: bool):
    assert has_contrast(rewards) is contrast


def test_a_prompt_rests_after_groups_without_contrast_and_twice_as_long_the_next_time(path: Path):
    found = memory(path)
    found.note(at(3, 0), [1.0, 0.0])
    found.note(at(3, 1), [1.0, 1.0])
    assert found.rests(at(3, 2)) is None  # one group is no row of two
    found.note(at(3, 2), [1.0, 1.0])
    assert asked_in(found, 3, range(3, 8)) == [5, 6, 7]  # two passes without
    found.note(at(3, 5), [1.0, 1.0])
    assert asked_in(found, 3, range(6, 12)) == [10, 11]  # four
    found.note(at(3, 10), [1.0, 1.0])
    assert asked_in(found, 3, range(11, 21)) == [19, 20]  # eight
    found.note(at(3, 19), [1.0, 0.0])
    assert asked_in(found, 3, range(20, 23)) == [20, 21, 22]
    found.note(at(3, 20), [1.0, 1.0])
    assert asked_in(found, 3, range(21, 23)) == [21, 22]  # fully back: again two in a row are needed
    assert asked_in(found, 4, range(3)) == [0, 1, 2]


def test_rests_are_bounded(path: Path):
    found, now = memory(path, after=1, passes=1), 0
    for _ in range(300):
        found.note(at(0, now), [0.0, 0.0])
        start, now = now, next(one for one in range(now + 1, now + 100) if found.rests(at(0, one)) is None)
    assert now - start == 65


def test_one_rest_is_of_solved_and_another_of_hopeless_prompts(path: Path):
    found = memory(path, after=1)
    found.note(at(0, 0), [0.0, 0.0])
    assert (found.rests(at(0, 1)), found.resting()) == ("hopeless", {"solved": 0, "hopeless": 1})
    found.note(at(1, 0), [0.4, 0.4])
    assert found.rests(at(1, 1)) == "solved"  # the best so far
    found.note(at(2, 0), [1.0, 1.0])
    assert [found.rests(at(row, 1)) for row in range(3)] == ["hopeless", "hopeless", "solved"]
    assert found.resting() == {"solved": 1, "hopeless": 2}
    found.note(at(2, 3), [1.0, 0.0])
    assert found.resting() == {"solved": 0, "hopeless": 2}
    found.note(at(3, 0), [1.0])  # nothing to compare
    assert found.rests(at(3, 1)) is None


def test_the_pass_rate_is_a_moving_average_of_mean_rewards_within_their_range(path: Path):
    found = memory(path)
    assert found.pass_rate(at(5, 0)) is None
    found.note(at(5, 0), [-1.0, -1.0])
    assert found.pass_rate(at(5, 0)) is None  # no two means to compare
    found.note(at(6, 0), [3.0, 3.0])
    assert (found.pass_rate(at(5, 1)), found.pass_rate(at(6, 1))) == (0.0, 1.0)
    found.note(at(5, 1), [3.0, 1.0])  # mean 2: 0.7 * -1 + 0.3 * 2 = -0.1; (-0.1 + 1) / 4
    assert found.pass_rate(at(5, 2)) == pytest.approx(0.225, abs=1e-6)


def test_a_restart_finds_everything_again(path: Path):
    found = memory(path, after=1)
    for row, rewards in enumerate([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]):
        found.note(at(row, 0), rewards)
    found.save()
    found.note(at(3, 0), [0.0, 0.0])  # not written
    again = memory(path, after=1)
    assert [again.rests(at(row, 1)) for row in range(4)] == ["hopeless", "solved", None, None]
    assert again.resting() == {"solved": 1, "hopeless": 1}
    assert again.pass_rate(2) == 0.5
    again.note(at(1, 3), [1.0, 1.0])
    again.save()
    assert asked_in(memory(path, after=1), 1, range(4, 9)) == [8]


def test_where_every_prompt_rests_the_passes_until_the_first_one_wakes_are_skipped(path: Path):
    found = memory(path, after=1, passes=3, size=2)
    found.note(0, [0.0, 0.0])
    found.note(3, [0.0, 0.0])  # a pass later
    assert [found.rests(index) is None for index in (4, 5)] == [False, False]
    found.skip()
    assert [found.rests(index) is None for index in (4, 5, 6, 7)] == [True, False, True, True]
    found.save()
    assert [memory(path, 1, 3, 2).rests(index) is None for index in (4, 5)] == [True, False]


def test_a_group_costs_one_line_and_the_file_is_written_anew_when_most_of_it_is_out_of_date(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rollout.data.prompt_memory._LINES", 20)
    found, sizes = memory(path), []
    for step in range(200):
        found.note(step % 5, [1.0, float(step % 2)])
        found.save()
        sizes.append(len(path.read_text().splitlines()))
    grown = [after - before for before, after in pairwise(sizes)]
    assert max(grown[5:]) == 1
    assert max(sizes) <= 2 * 5 + 20
    assert 5 < sum(one < 0 for one in grown) < 15
    found.save()  # nothing new
    assert len(path.read_text().splitlines()) == sizes[-1]
    assert memory(path).pass_rate(0) == pytest.approx(found.pass_rate(0), abs=1e-5)


def test_what_changes_while_the_file_is_written_anew_part_by_part_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout.data.prompt_memory._LINES", 20)
    monkeypatch.setattr("rollout.data.prompt_memory._ROWS", 2)
    found, sizes = memory(path, after=1), []
    for step in range(300):
        found.note(at(step * 7 % SIZE, step // 5), [1.0, float(step % 3 == 0)])
        found.save()
        sizes.append(len(path.read_text().splitlines()))
        again = memory(path, after=1)
        index = at(step * 7 % SIZE, step // 5 + 1)
        assert [again.rests(index + row) for row in range(SIZE)] == [found.rests(index + row) for row in range(SIZE)]
        assert again.resting() == found.resting()
        assert again.pass_rate(index) == pytest.approx(found.pass_rate(index), abs=1e-5)
    assert max(sizes) < 2 * SIZE + 20 + 10
    assert sum(after < before for before, after in pairwise(sizes)) > 5


def test_what_was_remembered_of_other_prompts_is_forgotten(path: Path):
    found = memory(path, after=1)
    found.note(at(0, 0), [0.0, 0.0])
    found.save()
    other = memory(path, after=1, seed=1)
    assert other.rests(at(0, 1)) is None
    other.note(at(1, 0), [0.0, 0.0])
    other.save()
    assert memory(path, after=1, seed=1).resting() == {"solved": 0, "hopeless": 1}


def test_a_line_that_was_being_written_when_the_machine_stopped_is_dropped(path: Path):
    found = memory(path, after=1)
    found.note(at(0, 0), [0.0, 0.0])
    found.save()
    whole = path.read_bytes()
    path.write_bytes(whole + b"[1,1,0.0,0.")
    again = memory(path, after=1)
    assert again.rests(at(0, 1)) == "hopeless"
    again.note(at(1, 0), [0.0, 0.0])
    again.save()
    assert memory(path, after=1).resting()["hopeless"] == 2


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{\n", 1),
        ("[]\n", 1),
        ('{"ahead": 0}\n', 1),
        (json.dumps({"prompts": PROMPTS}) + "\n[0,1,0.0,0.0,1,1]\n", 2),
        (json.dumps({"prompts": PROMPTS}) + "\n[0,1,0.0,0.0,1,1,3]\n[10,1,0.0,0.0,1,1,3]\n", 3),
        (json.dumps({"prompts": PROMPTS}) + "\n[0,-1,0.0,0.0,1,1,3]\n", 2),
        (json.dumps({"prompts": PROMPTS}) + "\n[0,1,0.0,0.0,1,1000,3]\n", 2),
        ("", 1),
    ],
)
def test_a_damaged_file_is_named_with_the_line(path: Path, content: str, line: int):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(CursorError, match=rf"memory\.jsonl: line {line}: damaged memory of prompts .* delete it"):
        memory(path)

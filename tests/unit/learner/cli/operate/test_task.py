"""`leeway task`: a task in a process of its own, with its prompts, ids and rewards, and within its time limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.cli.operate.task import TaskLook, look_at_task
from learner.cli.run.run_directory import RunError
from runtime.settings import SettingsError
from tests.tools.runs import DEMO

LIMIT_S = 120.0
MIXTURE = """
[run]
name = "r"
[model]
path = "demo"
[learner]
steps = 1
[rollout]
workers = 0
[[rollout.task]]
name = "sort"
[[rollout.task]]
name = "add"
label = "sums"
"""


def look(
    task: str, *overrides: str, source: Path | None = None, responses: tuple[str, ...] = (), limit_s: float = LIMIT_S
):
    lines: list[str] = []
    status = look_at_task(TaskLook(task, source, overrides, 2, responses, limit_s), lines.append)
    return status, lines


def test_a_built_in_task_needs_no_file():
    status, lines = look("sort", responses=("12", "456888"))
    assert status == 0
    assert "vocabulary" in lines[0]
    assert lines[1] == "task sort: endless"
    assert [line for line in lines if line.startswith("prompt ")] == [
        "prompt 0, id 'sort:848856'",
        "prompt 1, id 'sort:558840'",
    ]
    assert "  8 token ids: [14, 8, 4, 8, 8, 5, 6, 11]" in lines
    assert "  reward of a right answer '456888': 1" in lines
    assert "  reward of the response '12': 0" in lines
    assert "  reward of the response '456888': 1" in lines


def test_the_tasks_of_a_run_file_by_label_or_all(tmp_path: Path):
    (tmp_path / "run.toml").write_text(MIXTURE)
    _, lines = look("", source=tmp_path / "run.toml")
    assert [line for line in lines if line.startswith("task ")] == ["task sort: endless", "task sums: endless"]
    _, lines = look("sums", source=tmp_path / "run.toml")
    assert [line for line in lines if line.startswith("task ")] == ["task sums: endless"]
    with pytest.raises(RunError, match=r"no task 'sumz' in the run file; its tasks: 'sort', 'sums'"):
        look("sumz", source=tmp_path / "run.toml")


def test_settings_are_those_of_the_run_file(tmp_path: Path):
    _, lines = look("", "run.seed=5", source=DEMO)
    assert "  848856=" not in lines
    with pytest.raises(SettingsError, match=r"rollout\.task\.nam"):
        look("sort", "rollout.task.nam=1")


def test_what_the_task_ends_with_is_said_and_returned():
    status, lines = look("tests.tools.odd_tasks:Ending")
    assert (status, lines[-1]) == (7, "no licence\x1b[2J")
    status, lines = look("no_such_module:Task")
    assert status == 2
    assert "no_such_module" in lines[-1]


def test_a_task_that_hangs_is_ended_at_the_limit():
    with pytest.raises(RunError, match=r"not done after 3 s"):
        look("tests.tools.odd_tasks:Hanging", limit_s=3.0)


def test_no_task_is_an_error():
    with pytest.raises(RunError, match="name a task"):
        look("")

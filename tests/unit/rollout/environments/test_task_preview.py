"""The look at a task: what its prompts say, which ids they are, what responses are worth, and what fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout.config import WorkerConfig
from rollout.data.demo_model import write_model
from rollout.environments import task_preview
from rollout.environments.task_preview import TaskPreview
from rollout.tasks import Prompt, Task


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory, 0)
    return directory


def shown(model: Path, responses: Sequence[str] = (), count: int = 1, **task: Any) -> tuple[list[str], int]:
    config = WorkerConfig.parse(
        {
            "gateway": "127.0.0.1:1", "model": model, "state_dir": "/n", "log_dir": "/n", "allowed_uris": ["file:///n"],
            "task": task,
        }, "test",
    )  # fmt: skip
    lines: list[str] = []
    preview = TaskPreview(config, lines.append)
    preview.show(count, responses)
    return lines, preview.failed


def made(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """Lets every name be this task."""
    monkeypatch.setattr(task_preview, "load", lambda spec: task)


class Quiz(Task):
    """Two questions; a response earns named parts, and what cannot be judged raises."""

    name, size = "quiz", 2

    def prompt(self, index: int) -> Prompt:
        return Prompt(f"q{index}", f"{index}+1=\x1b[2J", data=str(index + 1))

    def reward(self, prompt: Prompt, response: str) -> dict[str, float]:
        if response == "":
            raise ValueError("nothing to judge")
        return {"right": float(response == prompt.data), "short": 0.5}


def test_a_prompt_its_ids_and_rewards_with_parts(model: Path, monkeypatch: pytest.MonkeyPatch):
    made(monkeypatch, Quiz())
    lines, failed = shown(model, ["1", "7"], count=5)
    assert lines[0] == "task sort: 2 prompts"
    assert [line for line in lines if line.startswith("\nprompt")] == ["\nprompt 0, id 'q0'", "\nprompt 1, id 'q1'"]
    assert "  0+1=\\x1b[2J" in lines  # a terminal is not told to do anything
    assert "  reward of the response '1': 1.5 (right 1, short 0.5)" in lines
    assert "  reward of the response '7': 0.5 (right 0, short 0.5)" in lines
    assert failed == 0


def test_a_response_that_cannot_be_judged_is_said_and_counted(model: Path, monkeypatch: pytest.MonkeyPatch):
    made(monkeypatch, Quiz())
    lines, failed = shown(model, [""])
    assert failed == 1
    assert "none: " in lines[-1]
    assert "nothing to judge" in lines[-1]


def test_a_held_out_prompt_is_marked(model: Path):
    lines, _ = shown(model, count=200, name="sort", held_out=0.5)
    marked = [line.endswith(", held out for evaluation") for line in lines if line.startswith("\nprompt")]
    assert set(marked) == {True, False}


def test_a_prompt_without_ids_is_said_and_counted(model: Path):
    lines, failed = shown(model, name="sort", prompt_format="chat")  # the demo's model has no chat template
    assert failed == 1
    assert any(line.startswith("  token ids: none: ") for line in lines)
    assert "  reward of a right answer '456888': 1" in lines


def test_another_interpreters_task_is_not_tried(model: Path):
    lines, failed = shown(model, name="reasoning-gym", python="/venv/bin/python")
    assert lines == ["task reasoning-gym: runs in /venv/bin/python; it cannot be tried here"]
    assert failed == 0

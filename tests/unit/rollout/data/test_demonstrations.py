"""Demonstrations of conversations mark the assistant's tokens, and nothing else, as generated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollout.config import TaskConfig, WorkerConfig
from rollout.data.demo_model import CALL, CALL_END, TOKENS, TOOL_TOKENS, write_model
from rollout.data.demonstrations import write_demonstrations
from rollout.tasks import TaskError
from rollout.tasks.held_out import is_held_out
from rollout.tasks.lookup import Lookup
from rollout.tasks.sort import Sort

NAMES = (*TOKENS, *TOOL_TOKENS)


def rows(tmp_path: Path, task: str | list[TaskConfig], count: int = 3) -> list[dict]:
    """Writes demonstrations with the demo's model that has a chat template."""
    write_model(tmp_path / "model", 0, tools=True)
    values = {"gateway": "127.0.0.1:1", "model": str(tmp_path / "model"), "state_dir": str(tmp_path)}
    values |= {"log_dir": str(tmp_path), "allowed_uris": ["file:///w"]}
    tasks = [TaskConfig(name=task)] if isinstance(task, str) else task
    config = WorkerConfig.parse({**values, "task": tasks}, source="test")
    write_demonstrations(config, count, 7, tmp_path / "out.jsonl")
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def named(ids: list[int]) -> list[str]:
    return [NAMES[token] for token in ids]


def test_a_conversation_is_cut_at_the_assistants_turns(tmp_path: Path):
    row = rows(tmp_path, "lookup")[1]
    data = Lookup(-1 - 7).prompt(1).data
    assert named(row["prompt"]) == ["<|tools|>", "lookup", "<eos>", "<|user|>", *data["key"], "<eos>", "<|assistant|>"]
    called = [CALL, *data["key"], CALL_END, "<eos>"]
    told = ["<|tool|>", *data["number"], "<eos>", "<|assistant|>"]
    answer = [*data["answer"], "<eos>"]
    assert named(row["response"]) == [*called, *told, *answer]
    first, last = len(called), len(called) + len(told)
    assert row["generated"] == [[0, first], [last, last + len(answer)]]


def test_a_solution_is_one_turn(tmp_path: Path):
    row = rows(tmp_path, "sort")[0]
    assert named(row["prompt"])[-1] == "="
    assert named(row["response"])[-1] == "<eos>"
    assert row["generated"] == [[0, 7]]


def test_a_task_without_solutions_is_an_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(TaskError, match=r"knows no solutions; remove \[learner.warmup\]"):
        rows(tmp_path, "tests.tools.odd_tasks:Unsolved")


def test_a_mixture_has_demonstrations_of_every_task_by_weight(tmp_path: Path):
    mixture = [TaskConfig(name="sort", weight=3.0), TaskConfig(name="lookup")]
    found = [named(row["prompt"])[0] for row in rows(tmp_path, mixture, 40)]
    assert (found.count("<bos>"), found.count("<|tools|>")) == (30, 10)


def test_what_is_held_out_is_not_demonstrated(tmp_path: Path):
    share, whole = 0.4, rows(tmp_path, "sort", 100)
    kept = [row for index, row in enumerate(whole) if not is_held_out(Sort(-1 - 7).prompt(index).prompt_id, share)]
    assert 40 < len(kept) < 80
    assert rows(tmp_path, [TaskConfig(name="sort", held_out=share)], len(kept)) == kept


def test_where_all_is_held_out_the_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout.data.demonstrations._MOST_HELD_OUT", 50)
    with pytest.raises(
        TaskError, match=r"'sort': 50 prompts in a row are held out: task\.held_out = 0\.999999: lower it"
    ):
        rows(tmp_path, [TaskConfig(name="sort", held_out=0.999999)])

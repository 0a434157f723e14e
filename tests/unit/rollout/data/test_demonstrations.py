"""Demonstrations of conversations mark the assistant's tokens, and nothing else, as generated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollout.config import TaskConfig, WorkerConfig
from rollout.data.demo_model import CALL, CALL_END, TOKENS, TOOL_TOKENS, write_model
from rollout.data.demonstrations import write_demonstrations
from rollout.tasks import TaskError
from rollout.tasks.lookup import Lookup

NAMES = (*TOKENS, *TOOL_TOKENS)


def rows(tmp_path: Path, task: str, count: int = 3) -> list[dict]:
    """Writes demonstrations with the demo's model that has a chat template."""
    write_model(tmp_path / "model", 0, tools=True)
    values = {"gateway": "127.0.0.1:1", "model": str(tmp_path / "model"), "state_dir": str(tmp_path)}
    values |= {"log_dir": str(tmp_path), "allowed_uris": ["file:///w"]}
    config = WorkerConfig.parse(values, source="test").model_copy(update={"task": TaskConfig(name=task)})
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

"""What a worker knows of a task in another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.environments.description import describe_task
from rollout.environments.loading import TaskSpec, load

OPTIONS = {"bad_lines": 0.5}
REWARD = {"name": "exact", "part": "exact", "weight": 1.0, "options": {}}


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "dataset"},
        {"name": "dataset", "rewards": [REWARD]},
        {"name": "agent", "prompts": "dataset", "command": ["agent"]},
    ],
)
def test_unusable_rows_of_the_data_are_told_whoever_judges_or_answers(tmp_path: Path, spec: dict):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q"}\n{"prompt": ""}\n{"prompt": "r"}\n')
    found = describe_task(load(TaskSpec(**spec, options={"path": str(path), **OPTIONS})))
    assert (found.size, found.unusable_rows) == (2, {"no_prompt": 1})
    assert found.fingerprint.keys() == {"path"}

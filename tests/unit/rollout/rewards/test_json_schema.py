"""The reward json_schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollout.rewards.registry import RewardPart, make_reward
from rollout.tasks import TaskError
from tests.unit.rollout.rewards.judging import value

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"n": 3}', 1.0),
        (' {"n": 3}\n', 1.0),
        ('<think>hm</think>{"n": 3}', 1.0),
        ('Here:\n```json\n{"n": 3}\n```', 1.0),
        ('```\n{"n": 3}\n```', 1.0),
        ('```json\n{"n": 3}\n```\n```json\n{"n": 4}\n```', 0.0),
        ('{"n": 0}', 0.0),
        ('{"n": "3"}', 0.0),
        ("{}", 0.0),
        ('{"n": 3', 0.0),
        ('{"n": NaN}', 0.0),
        ("", 0.0),
        ('<think>{"n": 3}', 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_a_response_is_json_of_the_form(text: str, reward: float):
    assert value("json_schema", text, options={"schema": SCHEMA}) == reward


def test_a_schema_from_a_file(tmp_path: Path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    assert value("json_schema", '{"n": 3}', options={"file": str(path)}) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of schema and file"),
        ({"schema": {"type": "objekt"}}, "schema: no JSON schema"),
        ({"file": "/no/such.json"}, "No such file"),
        ({"schema": "object"}, "options.schema = 'object': expected a table"),
    ],
)
def test_what_is_no_schema_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(TaskError, match=message):
        make_reward(RewardPart("json_schema", options=options))

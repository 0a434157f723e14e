"""Settings of tasks: one table or a mixture of several, and the labels by which they are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.config import TaskConfig, WorkerConfig
from runtime.settings import SettingsError

_VALUES = {"gateway": "g:1", "model": "m", "state_dir": "s", "log_dir": "l", "allowed_uris": ["file:///w"]}


def mixture(*tasks: dict[str, Any]) -> WorkerConfig:
    return WorkerConfig.parse({**_VALUES, "task": list(tasks)}, source="test")


def test_a_table_alone_is_a_mixture_of_one():
    (task,) = WorkerConfig.parse({**_VALUES, "task": {"name": "add"}}, source="test").task
    assert task == TaskConfig(name="add")
    (default,) = WorkerConfig.parse(_VALUES, source="test").task
    assert (default.name, default.label) == ("sort", "sort")


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"name": "add"}, "add"),
        ({"name": "my_module:Reverse"}, "Reverse"),
        ({"name": "reasoning-gym"}, "reasoning-gym"),
        ({"name": "add", "label": "sums"}, "sums"),
        ({"command": ["./agent"], "prompts": "sort"}, "agent"),
        ({"remote": True, "prompts": "sort", "name": "shop, by night"}, "shop__by_night"),
    ],
)
def test_a_task_without_a_label_is_called_by_its_name(values: dict[str, Any], label: str):
    assert TaskConfig.parse(values, source="test").label == label


def test_labels_of_a_mixture_differ():
    assert [task.label for task in mixture({"name": "add"}, {"name": "add", "label": "more"}).task] == ["add", "more"]
    with pytest.raises(SettingsError) as caught:
        mixture({"name": "add"}, {"name": "sort"}, {"name": "other:Add"})
    assert "2 tasks have the label 'add': set task.label, one of its own for each" in str(caught.value)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "give one task at least"),
        (
            [{"remote": True, "prompts": "sort", "name": name} for name in ("one", "two")],
            "remote = true stands in several tasks",
        ),
        ([{"label": "a/b"}], "task.0.label = 'a/b': String should match pattern"),
        ([{"name": "add"}, {"weight": 0}], "task.1.weight = 0: Input should be greater than 0"),
        ([{"name": "add"}, {"nmae": "sort"}], "unknown key 'task.1.nmae' (value 'sort'); did you mean 'task.1.name'?"),
    ],
)
def test_a_mixture_that_cannot_be_used_is_named(tasks: list[dict[str, Any]], message: str):
    with pytest.raises(SettingsError) as caught:
        mixture(*tasks)
    assert message in str(caught.value)

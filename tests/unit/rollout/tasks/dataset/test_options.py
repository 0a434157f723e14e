"""Options of the task dataset: each that does not fit is named with its value, before any data is read."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.tasks import TaskError, make_task
from rollout.tasks.dataset.options import DatasetOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "path = '' and name = '': set one of them"),
        ({"path": "a", "name": "b"}, "path = 'a' and name = 'b': set one of them"),
        ({"path": 3}, "path = 3: expected a path, or a list of paths"),
        ({"path": ["a", 3]}, "path = ['a', 3]: expected a path"),
        ({"paht": "a"}, "paht = 'a': no such option; there are path, name, "),
        ({"path": "a", "columns": {"promt": "q"}}, "columns.promt = 'q': no such option; there are prompt, messages, "),
        ({"path": "a", "columns": ["q"]}, "columns = ['q']: expected a table"),
        ({"path": "a", "columns": {"prompt": 1}}, "columns.prompt = 1: expected the name of a column"),
        ({"path": "a", "columns": {"prompt": "q", "messages": "m"}}, "prompt and messages exclude each other"),
        ({"path": "a", "columns": {"messages": "m"}, "template": "{q}"}, "messages and template exclude each other"),
        ({"path": "a", "format": "csv"}, "format = 'csv': expected jsonl, parquet or huggingface"),
        ({"path": "a", "split": "train"}, "split = 'train' is for Hugging Face datasets"),
        ({"name": "a", "format": "parquet"}, "format = 'parquet' is for a path"),
        ({"path": "a", "streaming": True, "limit": 5}, "streaming = true needs name"),
        ({"name": "a", "streaming": True}, "streaming = true needs limit"),
        ({"path": "a", "limit": 0}, "limit = 0: expected a number of rows, at least 1"),
        ({"path": "a", "limit": True}, "limit = True: expected"),
        ({"path": "a", "bad_lines": 1.0}, "bad_lines = 1.0: expected a share of the rows, in [0, 1)"),
        ({"path": "a", "bad_lines": float("nan")}, "bad_lines = nan: expected a share"),
        ({"path": "a", "shuffle": "no"}, "shuffle = 'no': expected true or false"),
        ({"path": "a", "where": {"level": [1, 2]}}, "where = {'level': [1, 2]}: expected a table"),
        ({"path": "a", "keep": "level"}, "keep = 'level': expected a list of columns"),
        ({"path": "a", "answer_pattern": "("}, "answer_pattern = '(': no regular expression"),
        ({"path": "a", "answer_pattern": "####.*"}, "answer_pattern = '####.*': expected one group"),
        ({"path": "a", "template": "{q"}, "template = '{q': expected '}' before end of string"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options: dict[str, Any], message: str):
    with pytest.raises(TaskError) as error:
        make_task("dataset", 0, options)
    assert f"dataset does not take them: ValueError: {message}" in str(error.value)


def test_what_is_set_is_kept():
    options = DatasetOptions.parse({"name": "openai/gsm8k", "config": "main", "split": "train", "columns": {"id": "n"}})
    assert (options.columns.id, options.columns.prompt, options.shuffle, options.reads_hugging_face) == (
        "n",
        "",
        True,
        True,
    )

"""Parquet files as data sets: nested columns, several row groups and files, types of every kind."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rollout.tasks import Task, TaskError, load_task
from rollout.tasks.dataset.parquet_files import parquet_rows

GSM8K = Path(__file__).parents[6] / "shared" / "data" / "gsm8k"
CALL = {"id": "c0", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def dataset(path: Path | str, **options: Any) -> Task:
    return load_task("dataset", 0, {"path": str(path), "shuffle": False, **options})


def write(path: Path, rows: list[dict[str, Any]], row_group_size: int = 7, schema: pa.Schema | None = None) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=row_group_size)
    return path


def as_of_verl(number: int) -> dict[str, Any]:
    """A row in the form that verl's preparation of GSM8K writes."""
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{number} + 1?"}],
        "ability": "math",
        "reward_model": {"ground_truth": str(number + 1), "style": "rule"},
        "extra_info": {"index": number, "split": "train" if number % 2 else "test", "hint": None},
    }


VERL = {"messages": "prompt", "answer": "reward_model.ground_truth", "id": "extra_info.index"}


def test_nested_columns_are_reached_in_files_as_verl_writes_them(tmp_path: Path):
    path = write(tmp_path / "train.parquet", [as_of_verl(number) for number in range(50)])
    assert parquet.ParquetFile(path).num_row_groups == 8
    task = dataset(path, columns=VERL, where={"extra_info.split": "train"})
    assert task.size == 25
    prompt = task.prompt(20)
    assert prompt.prompt_id == "41"
    assert prompt.messages == [{"role": "user", "content": "41 + 1?"}]
    assert prompt.data["answer"] == "42"
    assert prompt.data["row"]["extra_info"] == {"index": 41, "split": "train", "hint": None}
    assert "prompt" not in prompt.data["row"]


def test_files_are_read_one_after_the_other_and_places_name_file_and_row(tmp_path: Path):
    write(tmp_path / "b.parquet", [{"prompt": f"b{number}", "answer": number} for number in range(20)])
    write(tmp_path / "a.parquet", [{"prompt": f"a{number}"} for number in range(10)])  # and has no answers
    write(tmp_path / "empty.parquet", [], schema=pa.schema({"prompt": pa.string()}))
    task = dataset(tmp_path)
    assert [task.prompt(index).text for index in (0, 9, 10, 29, 30)] == ["a0", "a9", "b0", "b19", "a0"]
    assert [task.prompt(index).data["answer"] for index in (0, 29)] == [None, 19]
    with pytest.raises(
        TaskError, match=r"10 of 30 rows are unusable \(no_answer 10\); the first is .*/a\.parquet, row 1: "
    ):
        dataset(tmp_path, columns={"answer": "answer"})


def test_rows_of_many_batches_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout.tasks.dataset.parquet_files._AT_ONCE", 3)
    monkeypatch.setattr("rollout.tasks.dataset.arrow_rows._AT_ONCE", 2)
    rows = parquet_rows([write(tmp_path / "a.parquet", [{"n": number} for number in range(20)])], None)
    scanned = [(row.number, row.values) for row in rows.scan(["n"])]
    assert scanned == [(number, {"n": number}) for number in range(20)]
    assert [rows.row(number) for number in range(20)] == [{"n": number} for number in range(20)]
    assert rows.place(19).endswith("a.parquet, row 20")


def test_nulls_that_columns_fill_up_messages_with_are_no_fields(tmp_path: Path):
    turns = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c0", "content": "2"},
    ]
    other = {**CALL, "function": {"name": "neg", "arguments": {"x": 5}}}
    more = [{"role": "assistant", "content": "", "tool_calls": [other]}, {"role": "user", "content": "-1?"}]
    path = write(tmp_path / "a.parquet", [{"m": turns}, {"m": more}])
    assert parquet.read_table(path).to_pylist()[0]["m"][0]["tool_calls"] is None
    task = dataset(path, columns={"messages": "m"})
    assert list(task.prompt(0).messages) == [turns[0], {**turns[1], "content": ""}, turns[2]]
    assert list(task.prompt(1).messages) == more
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"m": one}) + "\n" for one in (turns, more)))
    same = dataset(lines, columns={"messages": "m"})
    assert same.fingerprint() == task.fingerprint()
    assert [same.prompt(index).prompt_id for index in range(2)] == [task.prompt(index).prompt_id for index in range(2)]


def test_columns_that_json_cannot_hold_are_left_out_of_the_row(tmp_path: Path):
    when = datetime.datetime(2026, 1, 2)
    row = {"prompt": "q", "when": when, "image": {"bytes": b"x"}, "score": float("nan"), "tags": ["a"], "nothing": None}
    data = dataset(write(tmp_path / "a.parquet", [row])).prompt(0).data
    assert data == {"answer": None, "row": {"tags": ["a"], "nothing": None}}


def test_null_prompts_are_unusable_rows_and_null_options_are_data(tmp_path: Path):
    rows = [{"prompt": "q", "hint": None, "answer": 1}, {"prompt": None, "hint": "h", "answer": None}]
    path = write(tmp_path / "a.parquet", rows)
    with pytest.raises(TaskError, match=r"1 of 2 rows are unusable .*a\.parquet, row 2: nothing is asked"):
        dataset(path)
    assert dataset(path, bad_lines=0.5).size == 1


def test_only_columns_that_are_needed_and_kept_are_read(tmp_path: Path):
    rows = [{"prompt": "q", "answer": 1, "x": {"id": "n"}, "level": 2, "heavy": "h" * 1000}]
    path = write(tmp_path / "a.parquet", rows)
    data = dataset(path, columns={"id": "x.id"}, keep=["level"]).prompt(0).data
    assert data == {"answer": 1, "row": {"level": 2}}
    (batch,) = [coming[2] for coming in parquet_rows([path], {"prompt", "level"})._coming]
    assert batch.schema.names == ["prompt", "level"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": {"answer": "final"}},
            "columns.answer names the column 'final', which is not there; there are q, n",
        ),
        ({}, "columns.prompt names the column 'prompt', which is not there; there are q, n"),
        ({"template": "{q} {hint}"}, "template names the column 'hint'"),
        ({"template": "{q}", "where": {"split": "x"}}, "where names the column 'split'"),
        ({"template": "{q}", "keep": ["level"]}, "keep names the column 'level'"),
    ],
)
def test_a_column_that_no_file_has_is_named(tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(TaskError) as error:
        dataset(write(tmp_path / "a.parquet", [{"q": "q", "n": 1}]), **options)
    assert f"task.options.{message}" in str(error.value)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path):
    (tmp_path / "a.parquet").write_text("rows")
    with pytest.raises(TaskError, match=r"a\.parquet cannot be read as Parquet: "):
        dataset(tmp_path / "a.parquet")


def test_a_file_that_is_damaged_further_on_is_named(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [{"prompt": f"{number}" * 50} for number in range(1000)], row_group_size=100)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(TaskError, match=r"a\.parquet cannot be read as Parquet: "):
        dataset(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.parquet", [{"prompt": "q"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TaskError, match=r"needs the package pyarrow, .* pip install 'leeway\[data\]'"):
        dataset(path)


@pytest.mark.skipif(not GSM8K.is_dir(), reason="needs the data set GSM8K beside the repository")
def test_gsm8k_as_parquet_asks_what_its_json_lines_ask(tmp_path: Path):
    source = GSM8K / "train.jsonl"
    rows = [json.loads(line) for line in source.read_bytes().splitlines()]
    path = write(tmp_path / "train.parquet", rows, row_group_size=1000)
    options = {
        "columns": {"prompt": "question", "solution": "answer"},
        "answer_pattern": r"####\s*(.+)",
        "bad_lines": 0,
    }
    lines, columns = (dataset(one, **options) for one in (source, path))
    assert columns.size == lines.size == 7473
    assert columns.fingerprint() == lines.fingerprint()
    assert all(columns.prompt(index) == lines.prompt(index) for index in range(0, 7473, 50))


def test_columns_of_categories_are_read(tmp_path: Path):
    path = tmp_path / "a.parquet"
    categories = pa.array(["a", "b", None]).dictionary_encode()
    parquet.write_table(pa.table({"prompt": ["q", "r", "s"], "answer": categories}), path)
    task = dataset(path)
    assert [task.prompt(index).data["answer"] for index in range(3)] == ["a", "b", None]

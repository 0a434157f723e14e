"""Hugging Face datasets: saved ones, directories of data files, and streams, all without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import config
from pyarrow import parquet

from rollout.tasks import Task, TaskError, load_task

ROWS = [
    {"question": f"{n} + 1?", "answer": n + 1, "extra": {"id": f"n{n}", "hint": None if n % 2 else "h"}}
    for n in range(50)
]
COLUMNS = {"prompt": "question", "id": "extra.id"}


def dataset(**options: Any) -> Task:
    return load_task("dataset", 0, {"columns": COLUMNS, "shuffle": False, **options})


def require_rows(task: Task, rows: list[dict[str, Any]]) -> None:
    assert task.size == len(rows)
    for index in (0, len(rows) // 2, len(rows) - 1):
        prompt, row = task.prompt(index), rows[index]
        assert (prompt.text, prompt.prompt_id) == (row["question"], row["extra"]["id"])
        assert prompt.data == {"answer": row["answer"], "row": {"answer": row["answer"], "extra": row["extra"]}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory as the Hub serves it: data files, split by their names."""
    data = tmp_path / "gsm-mini" / "data"
    data.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(ROWS[:20]), data / "train-00000-of-00002.parquet", row_group_size=6)
    parquet.write_table(pa.Table.from_pylist(ROWS[20:40]), data / "train-00001-of-00002.parquet")
    parquet.write_table(pa.Table.from_pylist(ROWS[40:]), data / "test-00000-of-00001.parquet")
    return data.parent


@pytest.mark.parametrize("options", [{"split": "train"}, {"revision": "main"}, {"streaming": True, "limit": 5}])
def test_options_that_mean_nothing_for_a_saved_dataset_are_named(tmp_path: Path, offline: list[Any], options: dict):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    option, value = next(iter(options.items()))
    with pytest.raises(TaskError) as error:
        dataset(name=str(tmp_path / "saved"), **options)
    assert f"task.options.{option} = {value!r}: the dataset saved in {tmp_path / 'saved'} has none" in str(error.value)


@pytest.mark.parametrize("option", ["name", "path"])
def test_a_saved_dataset_is_read(tmp_path: Path, offline: list[Any], option: str):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    require_rows(dataset(**{option: str(tmp_path / "saved")}), ROWS)
    assert not offline


def test_a_saved_dataset_whose_rows_were_chosen_and_mixed_is_read(tmp_path: Path, offline: list[Any]):
    chosen = datasets.Dataset.from_list(ROWS).shuffle(seed=1).select(range(10))
    order = [int(question.split()[0]) for question in chosen["question"]]
    chosen.save_to_disk(str(tmp_path / "saved"))
    require_rows(dataset(path=str(tmp_path / "saved")), [ROWS[number] for number in order])


def test_saved_splits_are_chosen_by_name(tmp_path: Path, offline: list[Any]):
    parts = (("train", ROWS[:40]), ("test", ROWS[40:]))
    splits: dict[Any, Any] = {name: datasets.Dataset.from_list(rows) for name, rows in parts}
    datasets.DatasetDict(**splits).save_to_disk(str(tmp_path / "saved"))
    where = {"name": str(tmp_path / "saved")}
    require_rows(dataset(**where, split="test"), ROWS[40:])
    with pytest.raises(TaskError, match=r"has several splits: set task\.options\.split to one of train, test"):
        dataset(**where)
    with pytest.raises(TaskError, match=r"cannot be loaded: KeyError: 'dev'"):
        dataset(**where, split="dev")


def test_a_directory_of_data_files_is_read_with_its_splits_and_without_a_connection(
    directory: Path, offline: list[Any]
):
    require_rows(dataset(name=str(directory), split="train"), ROWS[:40])
    require_rows(dataset(name=str(directory), split="test"), ROWS[40:])
    require_rows(dataset(name=str(directory), split="train[:5]"), ROWS[:5])
    require_rows(dataset(path=str(directory), format="huggingface", split="test"), ROWS[40:])
    with pytest.raises(TaskError, match=r"set task\.options\.split to one of train, test"):
        dataset(name=str(directory))
    assert not offline


def test_the_fingerprint_tells_other_rows_and_not_where_they_come_from(directory: Path, offline: list[Any]):
    before = dataset(name=str(directory), split="train").fingerprint()["name"]
    assert before == dataset(path=str(directory / "data/train-*.parquet")).fingerprint()["path"]
    changed = [{**ROWS[20], "answer": -1}, *ROWS[21:40]]
    parquet.write_table(pa.Table.from_pylist(changed), directory / "data/train-00001-of-00002.parquet")
    assert dataset(name=str(directory), split="train").fingerprint()["name"] != before


def test_a_stream_is_read_as_far_as_the_limit(directory: Path, offline: list[Any]):
    task = dataset(name=str(directory), split="train", streaming=True, limit=30)
    require_rows(task, ROWS[:30])
    assert task.prompt(31) == task.prompt(1)
    chosen = dataset(name=str(directory), split="train", streaming=True, limit=3, where={"extra.hint": "h"})
    require_rows(chosen, [ROWS[0], ROWS[2], ROWS[4]])
    require_rows(dataset(name=str(directory), split="train", streaming=True, limit=1000), ROWS[:40])
    assert not offline


def test_a_stream_reads_no_further_than_it_must(directory: Path, offline: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout.tasks.dataset.hugging_face._STREAMED", 4)
    (directory / "data/train-00001-of-00002.parquet").write_text("damaged")
    options = {"name": str(directory), "split": "train", "streaming": True}
    require_rows(dataset(**options, limit=20), ROWS[:20])
    with pytest.raises(TaskError, match=r"name = .*gsm-mini'.*: the stream broke after 20 rows: "):
        dataset(**options, limit=21)


def test_a_stream_of_json_lines_is_read_and_its_columns_are_known(tmp_path: Path, offline: list[Any]):
    path = tmp_path / "lines" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    stream = {"name": str(path.parent), "split": "train", "streaming": True, "limit": 10}
    require_rows(dataset(**stream), ROWS[:10])
    with pytest.raises(
        TaskError, match=r"columns\.prompt names the column 'q', which is not there; there are question, "
    ):
        dataset(**stream, columns={"prompt": "q"})
    assert not offline


def test_a_directory_that_holds_no_dataset_is_named(tmp_path: Path, offline: list[Any]):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match=r"task\.options\.name = '.*/empty': cannot be loaded: EmptyDatasetError: "):
        dataset(name=str(tmp_path / "empty"))


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, offline: list[Any]):
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match=r"task\.options\.name = 'some/rows': cannot be loaded: ConnectionError: "):
        dataset(name="some/rows")


def test_one_directory_is_expected(tmp_path: Path):
    for path in ("rows.jsonl", ["a", "b"]):
        with pytest.raises(
            TaskError, match="format = 'huggingface' reads one directory; leave format out to read files"
        ):
            dataset(path=path, format="huggingface")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"'some/rows' needs the package datasets, .* pip install 'leeway\[data\]'"):
        dataset(name="some/rows")

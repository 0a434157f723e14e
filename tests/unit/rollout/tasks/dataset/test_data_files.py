"""Files of a data set: found by path, directory, pattern or list, in the order of their paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.tasks import TaskError
from rollout.tasks.dataset.data_files import data_files, format_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.jsonl",
        "a.jsonl",
        "deep/c.parquet",
        "deep/.hidden.parquet",
        ".git/d.jsonl",
        "README.md",
        "odd.data",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["b.jsonl"], ["b.jsonl"]),
        (["*.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["b.jsonl", "a.jsonl", "*.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["**/*.parquet"], ["deep/c.parquet"]),
        (["deep"], ["deep/c.parquet"]),
        ([""], ["a.jsonl", "b.jsonl", "deep/c.parquet"]),
        (["odd.data"], ["odd.data"]),
    ],
)
def test_files_are_found(tree: Path, paths: list[str], found: list[str]):
    files = data_files([str(tree / path) for path in paths])
    assert [str(file.relative_to(tree)) for file in files] == found


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path):
    path = tmp_path / "rows[1].jsonl"
    path.touch()
    assert data_files(str(path)) == [path]


@pytest.mark.parametrize(
    ("path", "why"),
    [("no.jsonl", "no such file"), ("no*.jsonl", "no such file"), (".git/empty", "no .jsonl or .parquet")],
)
def test_what_is_not_there_is_named(tree: Path, path: str, why: str):
    (tree / ".git/empty").mkdir()
    with pytest.raises(TaskError) as error:
        data_files([str(tree), str(tree / path)])
    assert str(error.value).startswith(f"task.options.path = '{tree / path}': {why}")


def test_the_names_tell_the_format_and_one_that_does_not_is_asked_for():
    assert format_of([Path("a.JSONL"), Path("b.ndjson")]) == "jsonl"
    assert format_of([Path("a.parquet"), Path("b.pq")]) == "parquet"
    with pytest.raises(
        TaskError, match=r"a\.json is neither \.jsonl nor \.parquet by its name: set task\.options\.format"
    ):
        format_of([Path("a.json")])
    with pytest.raises(TaskError, match=r"a\.jsonl and b\.parquet are of different formats"):
        format_of([Path("a.jsonl"), Path("b.parquet")])

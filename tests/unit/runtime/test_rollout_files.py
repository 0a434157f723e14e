"""Files of recorded groups: in order, while they grow, with a torn last line."""

from __future__ import annotations

from pathlib import Path

from runtime.rollout_files import RecordReader, all_records, first_records, last_records, rollout_files
from tests.tools.recorded import group, write_records


def test_files_are_in_the_order_in_which_a_worker_wrote_them(tmp_path: Path):
    write_records(tmp_path, [group(3.0)], "worker-1", 100_000)
    write_records(tmp_path, [group(2.0)], "worker-1", 99_999)
    write_records(tmp_path, [group(1.0)], "a-b.c-0", 0)
    (tmp_path / "notes.jsonl").write_text("{}\n")
    found = [(file.worker, file.number) for file in rollout_files(tmp_path)]
    assert found == [("a-b.c-0", 0), ("worker-1", 99_999), ("worker-1", 100_000)]
    assert [file.number for file in rollout_files(tmp_path, "worker-1")] == [99_999, 100_000]
    assert [one.time for one in all_records(tmp_path)] == [1.0, 2.0, 3.0]
    assert rollout_files(tmp_path / "none") == []


def test_a_torn_line_is_read_once_it_is_complete_and_damaged_ones_never(tmp_path: Path):
    path = write_records(tmp_path, [group(1.0)])
    whole = group(2.0).line()
    with path.open("ab") as file:
        file.write(b"{damaged\n\n" + whole[:50])
    reader = RecordReader(path)
    assert [one.time for one in reader] == [1.0]
    assert list(reader) == []
    with path.open("ab") as file:
        file.write(whole[50:])
    assert [one.time for one in reader] == [2.0]
    assert reader.damaged == 1
    assert list(RecordReader(tmp_path / "none-00000.jsonl")) == []


def test_the_first_and_the_last_groups_of_all_workers(tmp_path: Path):
    write_records(tmp_path, [group(1.0), group(4.0)], "worker-0", 0)
    write_records(tmp_path, [group(9.0, task="add")], "worker-0", 7)
    write_records(tmp_path, [group(10.0)], "worker-0", 8)
    path = write_records(tmp_path, [group(2.0), group(8.0)], "worker-1", 0)
    with path.open("ab") as file:
        file.write(b'{"torn')
    assert [one.time for one in first_records(tmp_path, 3)] == [1.0, 2.0, 4.0]
    assert [one.time for one in last_records(tmp_path, 3)] == [8.0, 9.0, 10.0]
    assert [one.time for one in last_records(tmp_path, 3, lambda one: one.task == "sort")] == [4.0, 8.0, 10.0]
    assert last_records(tmp_path, 0) == []
    assert len(last_records(tmp_path, 100)) == len(first_records(tmp_path, 100)) == 6

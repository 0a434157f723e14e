"""Writes recorded groups to one file: JSON lines, a group each, or Parquet, a response each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from learner.cli.run.run_directory import RunError
from runtime.rollout_record import RecordedGroup, text_of, unpack_ids

_ROWS = 1000  # of a Parquet file at a time


def export_groups(groups: Iterable[RecordedGroup], file: Path) -> int:
    """Writes groups to a file that does not exist; returns how many.

    Args:
        groups: what is written, in order.
        file: its suffix says the format. ``.jsonl``: a group on each line, as recorded, which `leeway replay` reads.
            ``.parquet``: a row for each response, for data frames.

    Raises:
        RunError: the suffix is another one, the file exists, or Parquet is asked for without pyarrow.
        OSError: the file cannot be written.
    """
    if file.suffix not in (".jsonl", ".parquet"):
        raise RunError(f"{file}: its suffix says no format that is known: end its name with .jsonl or .parquet")
    if file.exists():
        raise RunError(f"{file} exists: name another file, or delete it")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    counted = _Counted(groups)
    try:
        if file.suffix == ".jsonl":
            with temporary.open("wb") as written:
                written.writelines(group.line() for group in counted)
        else:
            _write_parquet(counted, temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return counted.count


class _Counted:
    def __init__(self, groups: Iterable[RecordedGroup]) -> None:
        self.count = 0
        self._groups = groups

    def __iter__(self) -> Iterator[RecordedGroup]:
        for group in self._groups:
            self.count += 1
            yield group


def _write_parquet(groups: Iterable[RecordedGroup], file: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RunError(
            f'{file.stem}: Parquet needs pyarrow: pip install "leeway[data]", or name a .jsonl file'
        ) from error
    ids = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema([
        ("group_id", pyarrow.string()), ("time", pyarrow.float64()), ("worker", pyarrow.string()),
        ("task", pyarrow.string()), ("prompt_id", pyarrow.string()), ("prompt", pyarrow.string()),
        ("prompt_tokens", ids), ("withdrawn", pyarrow.string()), ("response", pyarrow.int32()),
        ("text", pyarrow.string()), ("turns", pyarrow.string()), ("reward", pyarrow.float64()),
        ("advantage", pyarrow.float64()), ("parts", pyarrow.map_(pyarrow.string(), pyarrow.float64())),
        ("unscored", pyarrow.string()), ("finish", pyarrow.string()), ("generated", pyarrow.int32()),
        ("versions", ids), ("segments", pyarrow.int32()), ("tokens", pyarrow.list_(ids)), ("masked", pyarrow.int32()),
    ])  # fmt: skip
    rows = (row for group in groups for row in _rows(group))
    with parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, _ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))


def _rows(group: RecordedGroup) -> Iterator[dict[str, Any]]:
    """Yields a row for each response; ``tokens`` has a list for each segment, null where its token ids are left out."""
    for index, (response, advantage) in enumerate(zip(group.responses, group.advantages, strict=True)):
        spans = [span for segment in response.segments for span in segment.spans]
        yield {
            "group_id": group.group_id,
            "time": group.time,
            "worker": group.worker,
            "task": group.task,
            "prompt_id": group.prompt_id,
            "prompt": text_of(group.prompt),
            "prompt_tokens": _ids(group.prompt_tokens),
            "withdrawn": group.withdrawn,
            "response": index,
            "text": text_of(response.turns),
            "turns": json.dumps([turn.model_dump(exclude_defaults=True) for turn in response.turns]),
            "reward": response.reward,
            "advantage": advantage,
            "parts": list(response.parts.items()),
            "unscored": response.unscored,
            "finish": response.finish,
            "generated": response.generated,
            "versions": sorted({span.version for span in spans}),
            "segments": len(response.segments),
            "tokens": [_ids(segment.tokens) for segment in response.segments],
            "masked": response.masked,
        }


def _ids(packed: str | None) -> list[int] | None:
    return None if packed is None else unpack_ids(packed)

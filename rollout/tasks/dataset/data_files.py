"""Finds the files of a data set, and what they are."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from rollout.tasks.base import TaskError

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
_MAGIC = "*?["


def data_files(path: str | Sequence[str]) -> list[Path]:
    """Returns the files that paths name: files, those in directories, at any depth, and those that patterns match.

    Each is there once, in the order of their paths. Hidden files and directories are passed over, and in directories what
    is neither JSON lines nor Parquet.

    Raises:
        TaskError: a path names no file.
    """
    paths = [path] if isinstance(path, str) else path
    found: set[Path] = set()
    for one in paths:
        here = _at(one)
        if not here:
            raise TaskError(
                f"task.options.path = {one!r}: "
                + ("no .jsonl or .parquet file in it" if Path(one).is_dir() else "no such file")
            )
        found.update(here)
    return sorted(found)


def format_of(files: Sequence[Path]) -> str:
    """Returns "jsonl" or "parquet", by the names of the files. Raises TaskError when they do not tell, or differ."""
    formats = {_SUFFIXES.get(file.suffix.lower(), ""): file for file in files}
    if "" in formats:
        raise TaskError(
            f"task.options.path: {formats['']} is neither .jsonl nor .parquet by its name: set task.options.format = 'jsonl' "
            "(one JSON object a line) or 'parquet'"
        )
    if len(formats) > 1:
        shown = " and ".join(str(file) for file in formats.values())
        raise TaskError(f"task.options.path: {shown} are of different formats: name files of one, 'data/*.parquet'")
    return next(iter(formats))


def _at(path: str) -> list[Path]:
    place = Path(path)
    if place.is_file():
        return [place]
    if place.is_dir():
        return [
            file
            for file in place.rglob("*")
            if file.is_file()
            and file.suffix.lower() in _SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(place).parts)
        ]
    if any(sign in path for sign in _MAGIC):
        return [file for match in glob.glob(path, recursive=True) if (file := Path(match)).is_file()]
    return []

"""Reads Hugging Face datasets with the library datasets: of the Hub, from a directory, or as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rollout.tasks.base import TaskError
from rollout.tasks.dataset.arrow_rows import ArrowRows
from rollout.tasks.dataset.options import DatasetOptions
from rollout.tasks.dataset.row_source import Row, RowSource, ScannedRow, missing_package

_AT_ONCE = 4096  # rows that are Python objects at the same time
_STREAMED = 1000  # rows that are asked of a stream at once
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


class HuggingFaceRows:
    """The rows of a dataset that the library keeps in Arrow files and maps into memory, once for all workers of a machine.

    Args:
        dataset: a datasets.Dataset.
        name: the dataset's name, for messages.
    """

    fills_with_nulls = True

    def __init__(self, dataset: Any, name: str) -> None:
        self.columns: Sequence[str] | None = list(dataset.column_names)
        self._dataset = dataset.with_format("arrow")  # columns of images and sounds stay bytes
        self._name = name

    def scan(self, columns: Sequence[str]) -> Iterator[ScannedRow]:
        """Yields all rows with the columns that are asked for."""
        assert self.columns is not None
        chosen = self._dataset.select_columns([name for name in self.columns if name in columns])
        number = 0
        for table in chosen.iter(batch_size=_AT_ONCE):
            for values in table.to_pylist():
                yield ScannedRow(number, values)
                number += 1

    def row(self, number: int) -> Row:
        """Returns a row."""
        return self._dataset[number].to_pylist()[0]

    def place(self, number: int) -> str:
        """Returns the dataset's name and the row in it, from 1."""
        return f"{self._name}, row {number + 1}"


def is_saved_dataset(directory: Path) -> bool:
    """Whether the library datasets has written a directory, with ``save_to_disk``."""
    return any((directory / name).is_file() for name in _SAVED)


def hugging_face_rows(options: DatasetOptions) -> RowSource:
    """Returns the rows of the dataset that the options name; downloads it where it is neither here nor in the cache.

    A local directory is read without a connection. Time limits of connections are the libraries': HF_HUB_DOWNLOAD_TIMEOUT,
    HF_HUB_ETAG_TIMEOUT. HF_HUB_OFFLINE=1 forbids them. The downloaded files are in HF_HOME.

    Raises:
        TaskError: the library is missing, there is no such dataset, or a split must be chosen.
    """
    try:
        import datasets
        import datasets.exceptions
    except ImportError as error:
        raise missing_package("datasets", f"the Hugging Face dataset {options.name or options.path!r}") from error
    datasets.disable_progress_bars()
    name = options.name or str(options.path)
    where = f"task.options.{'name' if options.name else 'path'} = {name!r}"
    try:
        dataset = _only_split(_loaded(datasets, name, options), where)
    # The library's errors of builders are kinds of nothing more precise; scripts are refused with a RuntimeError.
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise TaskError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not options.streaming:
        return HuggingFaceRows(dataset, name)
    return ArrowRows(dataset.column_names, _streamed(dataset, name, where, datasets.exceptions.DatasetsError))


def _loaded(datasets: Any, name: str, options: DatasetOptions) -> Any:
    if os.path.isdir(name) and is_saved_dataset(Path(name)):
        return _saved(datasets.load_from_disk(name), name, options)
    return datasets.load_dataset(
        name,
        options.config or None,
        split=options.split or None,
        revision=options.revision or None,
        streaming=options.streaming,
    )


def _saved(found: Any, name: str, options: DatasetOptions) -> Any:
    """Returns the split of a dataset that save_to_disk has written; raises TaskError for options that mean nothing there."""
    meaningless = [one for one in ("config", "revision", "streaming") if getattr(options, one)]
    if options.split and not isinstance(found, dict):
        meaningless.append("split")
    if meaningless:
        value = getattr(options, meaningless[0])
        raise TaskError(
            f"task.options.{meaningless[0]} = {value!r}: the dataset saved in {name} has none to choose: remove the option"
        )
    return found[options.split] if options.split else found


def _only_split(found: Any, where: str) -> Any:
    if not isinstance(found, dict):
        return found
    if len(found) != 1:
        raise TaskError(f"{where} has several splits: set task.options.split to one of {', '.join(map(str, found))}")
    return next(iter(found.values()))


def _streamed(dataset: Any, name: str, where: str, library_error: type[Exception]) -> Iterator[tuple[str, int, Any]]:
    first = 0
    try:
        for table in dataset.with_format("arrow").iter(batch_size=_STREAMED):
            for batch in table.to_batches():
                yield name, first, batch
                first += batch.num_rows
    except (OSError, ValueError, RuntimeError, library_error) as error:
        message = f"{where}: the stream broke after {first} rows: {type(error).__name__}: {error}"
        raise TaskError(message) from error

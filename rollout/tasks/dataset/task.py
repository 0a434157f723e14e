"""The task dataset: prompts by configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollout.tasks.base import Prompt, Task, TaskError
from rollout.tasks.dataset.column_path import as_text
from rollout.tasks.dataset.data_files import data_files, format_of
from rollout.tasks.dataset.hugging_face import hugging_face_rows, is_saved_dataset
from rollout.tasks.dataset.json_line_rows import JsonLineRows
from rollout.tasks.dataset.options import DatasetOptions
from rollout.tasks.dataset.parquet_files import parquet_rows
from rollout.tasks.dataset.pass_order import PassOrder
from rollout.tasks.dataset.prompt_maker import PromptMaker
from rollout.tasks.dataset.row_index import RowIndex, index_rows
from rollout.tasks.dataset.row_source import RowSource
from rollout.tasks.judged_response import JudgedResponse


class Dataset(Task):
    """Rows of JSON lines, Parquet files or a Hugging Face dataset, each a prompt.

        [rollout.task]
        name = "dataset"
        options = {path = "train.parquet", columns = {prompt = "question"}, answer_pattern = '####\\s*(.+)'}

    All rows are read once when the worker starts. Unusable ones are skipped, named in the log and counted by reason, up to
    the share ``bad_lines``. The i-th usable row is the i-th prompt of a pass, or, with ``shuffle``, some other place of it,
    by seed and pass; so a worker can be stopped and go on. A digest of all prompts and answers tells whether they are still
    the same then, wherever the files are.

    Without ``task.reward`` a response earns 1 if it is the answer, its finished reasoning and spaces around both aside, or
    one of the answers where the column has a list; else 0. ``prompt.data`` is {"answer": a text or number, or a list of
    them, "row": the other columns that JSON can hold}.

    Without a column for ids, a prompt's id is a digest of what its row asks: a row keeps it when others are added, so that
    held-out prompts stay held out, and rows that ask the same have the same.

    Memory: JSON lines 16 bytes a row, for rows stay in their files, which must not be changed meanwhile; Parquet as much as
    the file without compression (``keep`` lessens it); a Hugging Face dataset little, for its files are mapped; a stream as
    much as its first ``limit`` rows. Besides, 4 bytes a row, and about 100 a row for a moment at the start.

    Args:
        seed: the worker's.
        options: see rollout/tasks/dataset/options.py.

    Raises:
        ValueError: an option is unknown or does not fit.
    """

    name = "dataset"

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed)
        self._options = DatasetOptions.parse(options)
        self._maker = PromptMaker(self._options)
        self._source: RowSource | None = None
        self._index: RowIndex | None = None
        self._order: PassOrder | None = None

    def load(self) -> None:
        source = self._opened()
        if source.columns is not None:
            self._maker.require_columns(source.columns)
        self._maker.fills_with_nulls = source.fills_with_nulls
        self._index = index_rows(source, self._maker, self._options)
        self._source = source
        self.size = len(self._index.rows)
        self.unusable_rows = self._index.skipped
        self._order = PassOrder(self.size, self.seed) if self._options.shuffle else None

    def prompt(self, index: int) -> Prompt:
        assert self._source is not None
        assert self._index is not None
        assert self.size is not None, "load comes first"
        number, place = divmod(index, self.size)
        row = place if self._order is None else self._order.row(number, place)
        return self._maker.prompt(self._source.row(self._index.rows[row]))

    def reward(self, prompt: Prompt, response: str) -> float:
        return self.judge(prompt, JudgedResponse(response))

    def judge(self, prompt: Prompt, response: JudgedResponse) -> float:
        answer = prompt.data["answer"]
        if answer is None or isinstance(answer, dict):
            what = "no answer" if answer is None else "an answer that is an object"
            raise TaskError(
                f"the row has {what}, to which a response cannot be compared: set task.options.columns.answer to a column "
                "of texts or numbers, or task.reward to what judges"
            )
        said = response.finished
        return float(said is not None and said.strip() in [text.strip() for text in _texts(answer)])

    def solution(self, prompt: Prompt) -> str | None:
        if self._options.columns.solution:
            return prompt.data["solution"]
        answer = prompt.data["answer"]
        return None if answer is None or isinstance(answer, dict) else _texts(answer)[0]

    def fingerprint(self) -> dict[str, Any]:
        return {} if self._index is None else {"path" if self._options.path else "name": self._index.digest}

    def _opened(self) -> RowSource:
        options = self._options
        place = Path(options.path) if isinstance(options.path, str) else None
        saved = place is not None and place.is_dir() and is_saved_dataset(place)
        if options.reads_hugging_face or (saved and not options.format):
            if options.path and (place is None or not place.is_dir()):
                raise TaskError(
                    f"task.options.path = {options.path!r}: format = 'huggingface' reads one directory; leave format out to "
                    "read files"
                )
            return hugging_face_rows(options)
        files = data_files(options.path)
        if (options.format or format_of(files)) == "jsonl":
            return JsonLineRows(files)
        wanted = None if options.keep is None else self._maker.used_columns() | set(options.keep)
        return parquet_rows(files, wanted)


def _texts(answer: Any) -> list[str]:
    """Returns the texts that are right."""
    return [str(as_text(one)) for one in (answer if isinstance(answer, list) else [answer])]

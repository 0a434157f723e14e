"""Which rows of a data set are asked: all are looked at once, and unusable ones are named, counted and skipped."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rollout.tasks.base import TaskError
from rollout.tasks.dataset.options import DatasetOptions
from rollout.tasks.dataset.prompt_maker import PromptMaker, RowContent
from rollout.tasks.dataset.row_source import RowSource, ScannedRow
from rollout.tasks.row_error import RowError, UnusableRow

_NAMED = 5  # unusable rows that are logged one by one

_log = logging.getLogger("rollout.tasks.dataset")


@dataclass(frozen=True)
class RowIndex:
    """The rows that are asked.

    Attributes:
        rows: their numbers in the source, in its order.
        digest: digest of their ids, of what they ask and of the answers, in this order.
        skipped: number of unusable rows by reason.
        repeated: number of rows that ask what an earlier one asks, under the same id.
    """

    rows: Sequence[int]
    digest: str
    skipped: Mapping[UnusableRow, int]
    repeated: int


def index_rows(source: RowSource, maker: PromptMaker, options: DatasetOptions) -> RowIndex:
    """Scans a source.

    Raises:
        TaskError: no row is left, more than ``bad_lines`` are unusable, or two rows that ask different things have one id.
    """
    scan = _Scan(source, maker, options)
    for scanned in source.scan(sorted(maker.used_columns())):
        scan.add(scanned)
        if len(scan.rows) == options.limit:
            break
    return scan.finished()


class _Scan:
    """A scan under way."""

    def __init__(self, source: RowSource, maker: PromptMaker, options: DatasetOptions) -> None:
        self.rows = array("I")
        self._source = source
        self._maker = maker
        self._options = options
        self._seen = 0
        self._skipped: Counter[UnusableRow] = Counter()
        self._first_fault = ""
        self._ids = array("Q")  # 64 bits of the digest of each row's id, and of what it asks
        self._asked = array("Q")
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, scanned: ScannedRow) -> None:
        self._seen += 1
        fault = scanned.fault
        if scanned.values is not None:
            if not self._maker.is_chosen(scanned.values):
                return
            try:
                self._keep(scanned.number, self._maker.content(scanned.values))
                return
            except RowError as error:
                fault = error
        assert fault is not None
        told = f"{self._source.place(scanned.number)}: {fault}"
        self._first_fault = self._first_fault or told
        if self._skipped.total() < _NAMED:
            _log.warning("row skipped: %s", told)
        self._skipped[fault.reason] += 1

    def finished(self) -> RowIndex:
        bad, allowed = self._skipped.total(), self._options.bad_lines
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self._skipped.items()))
        if bad > allowed * self._seen:
            raise TaskError(
                f"task.options.bad_lines = {allowed:g}: {bad} of {self._seen} rows are unusable ({reasons}); the first is "
                f"{self._first_fault}; correct the rows, the columns that the options name, or allow more"
            )
        if not self.rows:
            chosen = f" has where = {dict(self._options.where)!r}" if self._options.where else ""
            raise TaskError(f"task.options: the data set is empty: none of {self._seen} rows{chosen}")
        if bad:
            _log.warning("%d of %d rows skipped: %s", bad, self._seen, reasons)
        repeated = len(self._ids) - len(set(self._ids))
        if repeated and self._options.columns.id:
            self._require_same_content()
        if repeated:
            _log.warning("%d rows ask again what an earlier one asks", repeated)
        return RowIndex(self.rows, f"blake2b:{self._digest.hexdigest()}", dict(self._skipped), repeated)

    def _keep(self, number: int, content: RowContent) -> None:
        self.rows.append(number)
        self._ids.append(int.from_bytes(hashlib.blake2b(content.prompt_id.encode(), digest_size=8).digest(), "big"))
        self._asked.append(int.from_bytes(content.digest[:8], "big"))
        self._digest.update(json.dumps([content.prompt_id, content.digest.hex(), content.answer]).encode())

    def _require_same_content(self) -> None:
        """Checks that rows with one id ask the same."""
        order = sorted(range(len(self.rows)), key=self._ids.__getitem__)  # stable: rows of one id in their order
        for one, other in pairwise(order):
            if self._ids[one] == self._ids[other] and self._asked[one] != self._asked[other]:
                places = [self._source.place(self.rows[which]) for which in (one, other)]
                raise TaskError(
                    f"task.options.columns.id = {self._options.columns.id!r}: {places[0]} and {places[1]} have one id and "
                    "ask different things; name a column without repetitions, or none: ids are then digests of what is asked"
                )

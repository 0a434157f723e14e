"""Rows of data of which no prompt can be made, by what is wrong with them."""

from __future__ import annotations

from typing import Literal, get_args

UnusableRow = Literal[
    "not_utf8", "not_json", "not_an_object", "no_prompt", "bad_messages", "no_answer", "bad_id", "bad_text"
]
UNUSABLE_ROWS: tuple[UnusableRow, ...] = get_args(UnusableRow)


class RowError(ValueError):
    """A row of which no prompt can be made; the message says why, and not where it is.

    Attributes:
        reason: what is wrong, in a word for counting.
    """

    def __init__(self, reason: UnusableRow, message: str) -> None:
        super().__init__(message)
        self.reason: UnusableRow = reason

"""Reads JSON lines: one JSON object a line, in UTF-8, as every tool that writes such files means it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.tasks.row_error import RowError


@dataclass(frozen=True, slots=True)
class JsonLine:
    """One line that is not blank.

    Attributes:
        number: the line's number, from 1.
        offset: bytes of the file before the line.
        raw: the line as it is, its end included.
    """

    number: int
    offset: int
    raw: bytes

    def parse(self) -> dict[str, Any]:
        """Returns the line's object. Raises RowError."""
        return parse_line(self.raw)


def json_lines(path: Path) -> Iterator[JsonLine]:
    """Yields the lines of a file that are not blank, in their order; they are not parsed yet. Raises OSError.

    A line ends with a line feed, before which a carriage return may stand, and with nothing else: JSON allows within a text
    what Python takes for further line ends (U+2028, U+0085). The last one needs no end. A byte-order mark is passed over.
    """
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.removeprefix(b"\xef\xbb\xbf").strip():
                yield JsonLine(number, offset, raw)
            offset += len(raw)


def parse_line(raw: bytes) -> dict[str, Any]:
    """Returns the object of a line of JSON lines. Raises RowError when there is none."""
    try:
        # Not json.loads(raw): it guesses among encodings, and lets through what UTF-8 forbids.
        text = raw.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise RowError("not_utf8", f"no UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}") from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise RowError("not_json", "no JSON that can be read: nested too deeply") from error
    except ValueError as error:
        at = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise RowError("not_json", f"no JSON: {at}") from error
    if not isinstance(value, dict):
        raise RowError("not_an_object", f"no JSON object, but {text!r:.80}")
    return value

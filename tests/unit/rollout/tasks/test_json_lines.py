"""JSON lines: what is data, what is no line, and what is wrong with a line, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.tasks.json_lines import json_lines, parse_line
from rollout.tasks.row_error import RowError


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (
            '{"a": "x\u2028y\x85z"}\n{"a": 2}\n',
            [(1, {"a": "x\u2028y\x85z"}), (2, {"a": 2})],
        ),
        ("\ufeff" + '{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"a": 1}\n' + "\ufeff" + '{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),  # two files, one after the other
        ('\n{"a": 1}\n  \t\n\r\n{"a": 2}\n\n', [(2, {"a": 1}), (5, {"a": 2})]),
        ('{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"a": 1}\n{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"a": null, "b": [1.5, true, {"c": "\\u00e9"}]}', [(1, {"a": None, "b": [1.5, True, {"c": "\u00e9"}]})]),
        ("", []),
        ("\ufeff", []),
        ("\ufeff\r\n", []),
    ],
)
def test_what_is_data_and_what_is_no_line(tmp_path: Path, content: str, rows: list):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content.encode())
    assert [(line.number, line.parse()) for line in json_lines(path)] == rows


def test_offsets_lead_to_the_lines(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"a": "\u00e9"}\r\n\n{"a": 2}\n {"a": 3}'.encode())
    content = path.read_bytes()
    found = [parse_line(content[line.offset : line.offset + len(line.raw)]) for line in json_lines(path)]
    assert found == [{"a": "\u00e9"}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"a": "caf\xe9"}', "not_utf8", "no UTF-8: byte 0xe9 at column 11"),
        (
            b'{"a": "\xed\xa0\x80"}',
            "not_utf8",
            "no UTF-8: byte 0xed at column 8",
        ),  # a surrogate, which json would let through
        ('{"a": 1}'.encode("utf-16"), "not_utf8", "no UTF-8: byte 0xff at column 1"),
        (b'{"a": 1} {"a": 2}', "not_json", "no JSON: Extra data"),
        (b"{'a': 1}", "not_json", "no JSON: Expecting property name"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not_json", "no JSON: Exceeds the limit"),
        (b"[" * 100_000, "not_json", "nested too deeply"),
        (b"[1, 2]", "not_an_object", "no JSON object, but '[1, 2]'"),
        (b"null", "not_an_object", "no JSON object, but 'null'"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(line: bytes, reason: str, message: str):
    with pytest.raises(RowError) as error:
        parse_line(line)
    assert error.value.reason == reason
    assert message in str(error.value)

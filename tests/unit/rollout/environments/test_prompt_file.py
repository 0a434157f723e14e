"""A file of prompts for agents: what is data, and what is named as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.environments.prompt_file import PromptFile
from rollout.tasks import TaskError


def test_a_byte_order_mark_blank_lines_and_odd_characters_are_data(tmp_path: Path):
    path = tmp_path / "asked.jsonl"
    path.write_bytes(
        '\ufeff{"prompt": "a\u2028b"}\r\n\n{"messages": [{"role": "user", "content": "c"}], "id": 7}'.encode()
    )
    task = PromptFile(0, str(path))
    task.load()
    first, second = task.prompt(0), task.prompt(3)
    assert (first.prompt_id, first.text, first.data) == ("asked:0", "a\u2028b", {"prompt": "a\u2028b"})
    assert (second.prompt_id, second.messages) == ("7", [{"role": "user", "content": "c"}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "caf\xe9"}', "line 2: no UTF-8: byte 0xe9 at column 16"),
        (b"{", "line 2: no JSON: "),
        (b"[1]", "line 2: no JSON object, but '[1]'"),
        (b'{"prompt": 5}', "line 2: expected an object with prompt (a text) or messages (a list), found b'{"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: bytes, message: str):
    path = tmp_path / "asked.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line)
    with pytest.raises(TaskError) as error:
        PromptFile(0, str(path)).load()
    assert f"{path}, {message}" in str(error.value)

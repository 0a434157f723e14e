"""Fingerprints of prompts: what changes them shows, by name; what does not, does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollout.config import TaskConfig
from rollout.data.fingerprint import differences, fingerprint


def of(version: str = "1", seed: int = 0, **options: Any) -> dict[str, Any]:
    return fingerprint(TaskConfig(name="m:Asked", options=options), seed, None, {"directory": version})


def test_the_same_prompts_have_no_differences_whatever_kind_their_options_are(tmp_path: Path):
    options = {"long": "x" * 5000, "pair": (1, 2), "nested": {"a": [1.5, None]}, "odd": {1}, "nul": "a\0b"}
    assert not differences(of(**options), of(**options))


def test_what_a_task_says_of_itself_is_compared_and_long_values_are_cut():
    (told,) = differences(of("1"), of("2"))
    assert told == "the task's directory is '2', was '1'"
    (told,) = differences(of(text="a" * 200), of(text="b" * 200))
    assert told == f"task.options.text is 'b{'b' * 58}..., was 'a{'a' * 58}..."


def test_an_option_that_became_a_file_is_another_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a long value would be shortened
    path = Path("data")
    before = of(data=str(path))
    path.write_text("rows")
    (told,) = differences(before, of(data=str(path)))
    assert told.startswith(f"task.options.data is {str(path)!r} with content blake3:")
    assert told.endswith(f"was {str(path)!r}")


def test_what_a_task_says_of_an_option_stands_instead_of_it():
    def of_path(path: str, content: str) -> dict[str, Any]:
        return fingerprint(TaskConfig(name="m:Asked", options={"path": path, "n": 1}), 0, 5, {"path": content})

    assert not differences(of_path("here", "1"), of_path("there", "1"))
    (told,) = differences(of_path("here", "1"), of_path("here", "2"))
    assert told == "the content of task.options.path is '2', was '1'"

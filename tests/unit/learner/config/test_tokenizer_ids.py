"""The largest token id that a model directory's tokenizer knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learner.config.tokenizer_ids import largest_token

BPE = {"model": {"vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": [{"id": 3, "content": "<end>"}]}
UNIGRAM = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("files", "largest"),
    [
        ({"tokenizer": BPE}, 3),
        ({"tokenizer": UNIGRAM}, 1),
        ({"tokenizer": BPE, "tokenizer_config": {"added_tokens_decoder": {"5": {"content": "<tool>"}}}}, 5),
        ({"tokenizer": BPE, "added_tokens": {"<more>": 9}}, 9),
        ({"tokenizer": BPE, "config": {"vocab_size": 64, "eos_token_id": None}}, 3),
        ({"tokenizer": BPE, "config": {"eos_token_id": 2}, "generation_config": {"eos_token_id": [2, 7]}}, 7),
        ({}, None),
        ({"tokenizer": {"model": {}}}, None),
        ({"tokenizer": {"model": {"vocab": {"a": "x"}}, "added_tokens": [{"id": 3}]}}, None),
    ],
)
def test_every_file_that_names_ids_counts(tmp_path: Path, files: dict[str, Any], largest: int | None):
    assert largest_token(write(tmp_path, **files)) == largest

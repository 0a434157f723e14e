"""Demonstrations become sequences that carry loss exactly where the model is to learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.warmup import Demonstration, DemonstrationError, read_demonstrations


def test_only_generated_ranges_carry_loss():
    demonstration = Demonstration.parse({"prompt": [1, 2], "response": [3, 4, 5, 6, 7], "generated": [[0, 2], [4, 5]]})
    sequence = demonstration.sequence(0.5)
    assert sequence.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sequence.generated.int().tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert (sequence.advantage, sequence.weight) == (1.0, 0.5)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [1], "response": [2]},
        {"prompt": [1], "response": [2], "generated": [[0, 2]]},
        {"prompt": [1], "response": [2, 3], "generated": [[1, 2], [0, 1]]},
        {"prompt": [1], "response": [2, 3], "generated": [[1, 1]]},
        {"prompt": [1], "response": ["x"], "generated": []},
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, row: dict):
    good = {"prompt": [1], "response": [2], "generated": [[0, 1]]}
    path = tmp_path / "demonstrations.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DemonstrationError, match=r"demonstrations\.jsonl:2: expected"):
        read_demonstrations(path, at_least=1)


def test_too_few_lines_are_an_error(tmp_path: Path):
    path = tmp_path / "demonstrations.jsonl"
    path.write_text(json.dumps({"prompt": [1], "response": [2], "generated": [[0, 1]]}))
    with pytest.raises(DemonstrationError, match="needs 2"):
        read_demonstrations(path, at_least=2)

"""A checkpoint of every kind of Adam, the first one of a run too, is resumed by every other kind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.ranks import run_cases
from tests.parallel.reference import SMALL, save_model

KINDS = {
    "torch",
    "torch, fused",
    "TransformerEngine",
    "apex",
    "torch beside TransformerEngine",
}  # of tests/parallel/adams.py


def sequences() -> list[dict[str, Any]]:
    """Rows as tests/parallel/case.py reads them."""
    draw, rows = random.Random(3), []
    for number in range(6):
        length = draw.randint(8, 24)
        tokens = [draw.randrange(SMALL["vocab_size"]) for _ in range(length)]
        generated = [position >= 4 for position in range(length)]
        advantage = 1.0 if number % 2 else -1.0
        rows.append(
            {"tokens": tokens, "generated": generated, "advantage": advantage, "weight": 0.02, "temperature": 1.0}
        )
    return rows


def test_every_kind_of_adam_saves_and_resumes_checkpoints_of_every_other(tmp_path: Path):
    save_model(tmp_path / "model", "moe untied")  # whose experts have an optimizer of their own
    (tmp_path / "sequences.json").write_text(json.dumps(sequences()))
    case = {"name": "adams", "run": "adams", "parallel": {}, "lr": 1e-2, "clip": 0.05, "eps": 1e-4}
    files = {"model": str(tmp_path / "model"), "sequences": str(tmp_path / "sequences.json")}
    run_cases(1, [case | files], tmp_path)
    found = json.loads((tmp_path / "adams.json").read_text())
    assert set(found) == KINDS
    expected = found["torch"]["alone"]
    assert len({round(loss, 3) for loss in expected}) == 4  # else the comparison says nothing
    for kind, of in found.items():
        assert of["built"], kind
        assert of["alone"] == pytest.approx(expected, abs=2e-6), kind
        assert of["first"] == pytest.approx(expected[:2], abs=2e-6), kind
        for other, losses in of["second"].items():
            assert losses == pytest.approx(expected[2:], abs=2e-6), f"{kind} resumed by {other}"

"""Bfloat16 over packed rows with grouped queries against float32, as on a GPU (tests/gpu/test_bfloat16.py), on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parallel.cells import Cell
from tests.parallel.precision import Closeness, in_bfloat16


def test_bfloat16_is_float32_but_for_rounding(tmp_path: Path):
    (found,) = in_bfloat16([Cell("qwen3 untied", 1, micro_batches=1)], tmp_path)
    assert found.close, found
    assert found.gradient.error > 1e-3, "this was float32 twice"


def test_closeness_is_of_all_tensors_together():
    expected = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    found = Closeness.between({"b": torch.tensor([[4.0]]), "a": torch.tensor([3.0, 0.5])}, expected)
    assert found.error == pytest.approx(0.1)
    assert found.cosine == pytest.approx(5 / (25.25**0.5))

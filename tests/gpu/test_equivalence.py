"""The one-rank cells of the equivalence matrix on a CUDA device: `pytest tests/gpu`."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from tests.parallel.cells import layouts
from tests.parallel.matrix import LIMITS, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CELLS = [cell for cell in layouts() if cell.ranks == 1]


def test_one_device_equals_the_reference(tmp_path):
    off = [(result.cell, result.real) for result in run(CELLS, tmp_path) if not result.equal]
    assert not off, f"limits {LIMITS}: {off}"


def test_bfloat16_with_every_fused_kernel_is_near_the_reference(tmp_path):
    """Attention over the whole row in one call runs in bf16 only, whose relative precision is 2^-8."""
    results = run([replace(cell, dtype="bfloat16") for cell in CELLS], tmp_path)
    off = [(result.cell, result.real) for result in results if result.real.gradient > 0.1 or result.real.loss > 2e-2]
    assert not off


@pytest.mark.skipif(importlib.util.find_spec("transformer_engine") is None, reason="no package transformer_engine")
def test_layers_of_transformer_engine_equal_the_reference_to_what_tf32_keeps(tmp_path):
    results = run([replace(cell, layers="transformer_engine") for cell in CELLS], tmp_path)
    off = [(result.cell, result.real) for result in results if result.real.gradient > 5e-3 or result.real.loss > 1e-3]
    assert not off

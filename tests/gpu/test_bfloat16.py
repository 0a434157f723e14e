"""What production runs on a CUDA device, bfloat16 over packed rows with grouped queries, against float32 on that device."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from tests.parallel.cells import Cell
from tests.parallel.precision import in_bfloat16

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Several sequences a row, half as many key heads as query heads; heads of 32 in Qwen3, of 16 in Llama.
CELLS = [
    Cell("qwen3 untied", 1, micro_batches=1),
    Cell("llama untied", 1, micro_batches=2, recompute="full"),
    Cell("qwen3 tied", 1, objective={"name": "asympo"}),
]


def test_bfloat16_is_float32_but_for_rounding(tmp_path):
    assert not [one for one in in_bfloat16(CELLS, tmp_path) if not one.close]


@pytest.mark.skipif(importlib.util.find_spec("transformer_engine") is None, reason="no package transformer_engine")
def test_layers_of_transformer_engine_in_bfloat16_are_our_own_but_for_rounding(tmp_path):
    (found,) = in_bfloat16([replace(CELLS[0], layers="transformer_engine")], tmp_path)
    assert found.close, found

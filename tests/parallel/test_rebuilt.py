"""With recompute = "selective" gradients are those of keeping everything, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.parallel.cells import SP2, Cell
from tests.parallel.matrix import spec, tensors
from tests.parallel.ranks import run_cases
from tests.parallel.reference import prompts, save_model

CELLS = {
    "fused": Cell("qwen3 untied", 1, micro_batches=1, dtype="bfloat16"),
    "plain": Cell("qwen3 untied", 2, SP2),
    "experts": Cell("moe untied", 1, micro_batches=1),
}


def test_gradients_do_not_change_by_a_bit(tmp_path: Path):
    rows = prompts()
    for model in {cell.model for cell in CELLS.values()}:
        save_model(tmp_path / model, model)
    cases = [
        spec(f"{name}-{recompute}", replace(cell, recompute=recompute), tmp_path, rows)
        | {"fused": name == "fused", "steps": 1}
        for name, cell in CELLS.items()
        for recompute in ("none", "selective")
    ]
    run_cases(2, cases, tmp_path, 400)
    for name in CELLS:
        kept, rebuilt = (tensors(tmp_path, f"{name}-{kind}.real.gradient") for kind in ("none", "selective"))
        assert kept.keys() == rebuilt.keys()
        assert all(torch.equal(kept[key], rebuilt[key]) for key in kept), name

"""A training step waits for the device where it reads its numbers, and nowhere else.

On a CPU nothing waits; what would wait on CUDA is found by the operations that are made.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.parallel.cells import CP2, PP2, SP2, Cell
from tests.parallel.matrix import spec
from tests.parallel.ranks import run_cases
from tests.parallel.reference import prompts, save_model

CELLS = {
    "one_rank": Cell("qwen3 untied", 1),
    "tied_clipped": Cell("qwen2 tied", 1, objective={"name": "asympo", "p_low": 0.005, "p_high": 0.02}),
    "tensor": Cell("qwen3 tied", 2, SP2, {"name": "asympo"}),
    "stages": Cell("llama untied", 2, PP2),
    "context": Cell("qwen3 untied", 2, CP2, {"name": "asympo"}),
    "data": Cell("qwen3 untied", 2),
    "recomputed": Cell("qwen3 untied", 1, recompute="full"),
}


def test_a_step_waits_for_the_device_only_where_it_reads_its_numbers(tmp_path: Path):
    rows = prompts()
    for model in {cell.model for cell in CELLS.values()}:
        save_model(tmp_path / model, model)
    cases = [
        spec(name, cell, tmp_path, rows) | {"run": "waits", "fused": "context" not in name}
        for name, cell in CELLS.items()
    ]
    run_cases(2, cases, tmp_path, 300)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in CELLS}
    # The step's sums, from which it is decided whether and how the weights move; then how far they have moved.
    reads = ["tolist in trainer.py:_sum", "tolist in update_meter.py:after"]
    assert {name: values["waits"] for name, values in found.items()} == dict.fromkeys(CELLS, reads)
    assert all(values["update"] and values["norm"] > 0 for values in found.values())

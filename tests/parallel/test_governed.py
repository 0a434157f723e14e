"""Averaged weights and the governor of drift: the same under any layout and after a resume, and equal to a reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.governed import CONTROL, DECAY, SAVED, STEPS

LR = 2e-2
LAYOUTS: dict[str, dict[str, Any]] = {
    "one rank": {"world": 1, "parallel": {}, "every_step": True},
    "data": {"world": 2, "parallel": {}, "saves": True},
    "tensor and pipeline": {"world": 4, "parallel": {"tensor": 2, "pipeline": 2}},
    "resumed": {"world": 4, "parallel": {"tensor": 2, "pipeline": 2}, "from": SAVED, "of": "data"},
    "context, interleaved": {
        "world": 4, "parallel": {"context": 2, "pipeline": 2, "virtual_pipeline": 2}, "overlap": True,
    },
}  # fmt: skip
ADAPTERS: dict[str, dict[str, Any]] = {
    "adapters": {"world": 2, "parallel": {}, "saves": True},
    "adapters resumed": {
        "world": 4, "parallel": {"tensor": 2, "pipeline": 2, "sequence": True}, "from": SAVED, "of": "adapters",
    },
}  # fmt: skip
COMMON = {"run": "governed", "lr": LR, "eps": 1e-4, "micro_batches": 2, "every_step": False, "saves": False, "from": 0}


def test_layouts_agree_and_a_resume_is_exact(references, launch, tmp_path: Path):
    reference = references["qwen3"]
    common = COMMON | {"model": str(reference.directory), "sequences": str(reference.sequences)}
    adapted = common | {"checkpoint": str(tmp_path / "adapters"), "lora": {"rank": 4, "alpha": 32}}
    common["checkpoint"] = str(tmp_path / "checkpoint")
    cases = [{"name": name, **common, **layout} for name, layout in LAYOUTS.items()]
    runs = launch(4, [*cases, *({"name": name, **adapted, **layout} for name, layout in ADAPTERS.items())])
    _check_adapters(tmp_path / "adapters", *map(runs.pop, ADAPTERS))
    one = runs["one rank"]
    _check_governor(one.values)
    _check_average(one)

    weights, average = one.tensors("weights"), one.tensors("average")
    for name, run in runs.items():
        steps = STEPS - SAVED if name == "resumed" else STEPS
        assert run.values["rates"] == pytest.approx(one.values["rates"][-steps:], rel=1e-4), name
        found = [movement["drift"] for movement in run.values["movements"]]
        assert found == pytest.approx(
            [movement["drift"] for movement in one.values["movements"]][-len(found) :], rel=1e-3
        )
        for kept, expected in (("weights", weights), ("average", average)):
            tensors = run.tensors(kept)
            assert tensors.keys() == expected.keys()
            for tensor in expected:
                assert (tensors[tensor] - expected[tensor]).abs().max() < 2e-5, (name, kept, tensor)
    # Shared out: two data ranks together keep one average, as one rank does. (A tied output layer counts on both its stages.)
    assert runs["data"].values["bytes"] == one.values["bytes"] == 4 * sum(map(torch.numel, average.values()))


def _check_adapters(checkpoint: Path, whole: Any, resumed: Any) -> None:
    """A run that goes on from a checkpoint of its adapters, under another layout, ends where the undisturbed one does."""
    for kept in ("weights", "average"):
        found, expected = resumed.tensors(kept), whole.tensors(kept)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (found[name] - tensor).abs().max() < 2e-5, (kept, name)
    assert resumed.values["rates"] == pytest.approx(whole.values["rates"][SAVED:], rel=1e-4)
    numbers = sum(map(torch.numel, whole.tensors("weights").values()))
    assert whole.values["bytes"] == 4 * numbers, "the average is of the adapters"
    written = sum(file.stat().st_size for file in checkpoint.glob("*.distcp"))
    model = sum(map(torch.numel, whole.tensors("average").values()))
    assert written < 5 * 4 * model / 3, "weights, fp32 weights, two moments and the average, of adapters only"


def _check_governor(values: dict[str, Any]) -> None:
    """Rates follow from the measurements by the formula, and the bound was active, or the comparison would say little."""
    scale, rate, expected, movements = None, None, [], list(values["movements"])
    assert len(movements) == STEPS // CONTROL.drift_every
    assert all(movement["steps"] == CONTROL.drift_every for movement in movements)
    bounds = 0
    for step in range(STEPS):
        if step and step % CONTROL.drift_every == 0:
            movement = movements.pop(0)
            found = movement["drift"] / (math.sqrt(movement["steps"]) * movement["rate"])
            keep = CONTROL.drift_decay ** movement["steps"]
            scale = found if scale is None else keep * scale + (1 - keep) * found
        rate = CONTROL.drift_start * LR if rate is None else min(LR, CONTROL.drift_growth * rate)
        if scale is not None and rate > (
            bound := CONTROL.drift_target / (math.sqrt(3 + 1 + DECAY / (1 - DECAY)) * scale)
        ):
            rate, bounds = bound, bounds + 1
        expected.append(rate)
    assert values["rates"] == pytest.approx(expected, rel=1e-9)
    assert 0 < bounds < STEPS


def _check_average(run: Any) -> None:
    """The average is that of the exported weights of every step, in float64."""
    steps = [run.tensors(f"at{step}") for step in range(STEPS)] + [run.tensors("weights")]
    moved = 0.0
    for name, tensor in run.tensors("average").items():
        average = steps[0][name].double()
        for weights in steps[1:]:
            average = DECAY * average + (1 - DECAY) * weights[name].double()
        assert (tensor.double() - average).abs().max() < 1e-6, name
        moved = max(moved, (steps[-1][name].double() - average).abs().max().item())
    assert moved > 1e-3, "the average is the weights themselves"

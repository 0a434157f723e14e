"""Gradients that are reduced during the backward pass, and weights that are gathered during the next forward pass.

On gloo, in small buckets, so that a model has many: the steps, the exported weights, the checkpoints and the scores must be
those of a run in which nothing overlaps.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

CASES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (model, parallel), on two data or context ranks
    "untied": ("qwen3", {}),
    "stages": ("qwen2", {"pipeline": 2}),
    "experts": ("moe", {"expert": 2}),
}
LOADED = ("untied", "experts")
BUCKET = 20_000  # weights


@pytest.fixture(scope="module")
def outcomes(references, launch, tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("checkpoints")
    cases = []
    for name, (model, parallel) in CASES.items():
        of_model = {
            "model": str(references[model].directory), "sequences": str(references[model].sequences), "parallel": parallel,
            "world": 4 if "pipeline" in parallel else 2,
        }  # fmt: skip
        for overlap in (True, False):
            title = f"{name}-{'on' if overlap else 'off'}"
            where = {"name": title, "run": "overlap", "overlap": overlap, "checkpoint": str(directory / title)}
            cases.append(of_model | where | {"bucket": BUCKET})
        if name not in LOADED:
            continue
        loading = {"run": "resumed", "checkpoint": str(directory / f"{name}-on"), "parallel": {}, "world": 2}
        cases.append(of_model | loading | {"name": f"{name}-loaded", "overlap": False})
        cases.append(of_model | loading | {"name": f"{name}-again", "overlap": True, "bucket": BUCKET})
    return launch(4, cases)


@pytest.mark.parametrize("name", CASES)
def test_steps_versions_and_scores_are_those_without_overlap(outcomes, name: str):
    on, off = outcomes[f"{name}-on"], outcomes[f"{name}-off"]
    assert all(on.values["on"])
    assert not any(off.values["on"])
    assert on.values["buckets"] > off.values["buckets"], "one bucket has nothing to overlap with"
    for key in ("losses", "norms"):
        assert on.values[key] == pytest.approx(off.values[key], rel=1e-5, abs=1e-6), key
    for mine, other in zip(on.values["scores"], off.values["scores"], strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    for kind in ("first", "last"):
        weights, expected = on.tensors(kind), off.tensors(kind)
        assert weights.keys() == expected.keys()
        for tensor in weights:
            torch.testing.assert_close(weights[tensor], expected[tensor], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", LOADED)
def test_a_checkpoint_holds_the_updated_weights_and_loads_in_buckets_or_without(outcomes, name: str):
    on, loaded, again = outcomes[f"{name}-on"], outcomes[f"{name}-loaded"], outcomes[f"{name}-again"]
    first = on.tensors("first")
    for outcome in (loaded, again):
        weights = outcome.tensors("loaded")
        assert any(not torch.equal(weights[key], first[key]) for key in first), "it was saved a step later"
        assert outcome.values["losses"] == pytest.approx(on.values["losses"][2:3], rel=1e-5, abs=1e-6)
    for key, tensor in loaded.tensors("loaded").items():
        torch.testing.assert_close(again.tensors("loaded")[key], tensor, rtol=0, atol=0)

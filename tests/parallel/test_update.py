"""The meters of updates and gradients under every kind of layout, and the projection of gradients."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

LAYOUTS = {  # name -> (model, parallel), on four ranks
    "update_tp2_pp2_tied": ("qwen2", {"tensor": 2, "pipeline": 2}),
    "update_tp2_dp2": ("llama", {"tensor": 2}),
    "update_cp2_dp2": ("qwen3", {"context": 2}),
    "update_pp2_dp2": ("qwen3", {"pipeline": 2}),
    "update_tp2_dp2_ep2": ("moe", {"tensor": 2, "sequence": True, "expert": 2}),
}


PROJECTED = {  # name -> (model, parallel, ranks): a tied embedding on two stages, and slices on data ranks
    "projected_one": ("qwen2", {}, 1),
    "projected_dp2": ("qwen2", {}, 2),
    "projected_tp2_pp2_tied": ("qwen2", {"tensor": 2, "pipeline": 2}, 4),
    "projected_tp2_dp2": ("qwen2", {"tensor": 2}, 4),
    "projected_resumed": ("qwen2", {"pipeline": 2}, 4),  # what projected_tp2_pp2_tied has saved
}


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def test_norm_and_cosine_are_those_of_the_exported_weights(references, launch):
    cases = [
        {
            "name": name,
            "model": str(references[model].directory),
            "sequences": str(references[model].sequences),
            "parallel": parallel,
            "run": "movement",
        }
        for name, (model, parallel) in LAYOUTS.items()
    ]
    for name, outcome in launch(4, cases).items():
        weights = [flat(outcome.tensors(f"at{number}")) for number in range(4)]
        moves = [after - before for before, after in pairwise(weights)]
        expected = [(float(move.norm()), None) for move in moves[:1]]
        expected += [
            (float(move.norm()), float(torch.cosine_similarity(move, last, dim=0))) for last, move in pairwise(moves)
        ]
        for got, (norm, cosine) in zip(outcome.values["updates"], expected, strict=True):
            assert got[0] == pytest.approx(norm, rel=1e-6), name
            assert got[1] == (cosine if cosine is None else pytest.approx(cosine, abs=1e-6)), name


def test_the_cosine_of_gradients_and_their_projection_do_not_depend_on_the_layout(references, launch, tmp_path: Path):
    """Nor on a resume: the last gradient is in the checkpoint."""
    cases = [
        {
            "name": name,
            "model": str(references[model].directory),
            "sequences": str(references[model].sequences),
            "parallel": parallel,
            "world": world,
            "run": "movement",
            "projects_above": 0.1,
            "checkpoint": str(tmp_path / "checkpoint"),
            "saves": name == "projected_tp2_pp2_tied",
            "resumes": name == "projected_resumed",
        }
        for name, (model, parallel, world) in PROJECTED.items()
    ]
    found = launch(4, cases)
    first = found["projected_one"]
    assert first.values["cosines"][0] is None
    assert all(cosine > 0.2 for cosine in first.values["cosines"][1:])  # so steps 2 and 3 are projected
    begin, end = flat(first.tensors("at0")), flat(first.tensors("at3"))
    for name, outcome in found.items():
        steps = 1 if name == "projected_resumed" else 2
        assert outcome.values["cosines"][-steps:] == pytest.approx(first.values["cosines"][-steps:], rel=1e-3), name
        assert (flat(outcome.tensors("at3")) - end).norm() < 2e-3 * (end - begin).norm(), name

"""The first policy of a run: taught once for a task and a seed, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from learner.megatron.parallel import Ranks
from rollout.data.demo_model import write_model
from tests.evidence import warm_start
from tests.evidence.cell import SHAPES, Cell

pytestmark = pytest.mark.filterwarnings("ignore:::megatron", "ignore::FutureWarning")


def test_a_policy_is_taught_once_and_kept(cache: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(warm_start, "TARGET", 1e-30)  # reached at the first measurement, after five steps
    monkeypatch.setattr(warm_start, "_DEMONSTRATIONS", 400)
    cell = Cell(task="add", objective="spo", lr=1e-3, seed=2)
    made = warm_start.warm_started(cell, cache, ranks)
    write_model(tmp_path / "untaught", 2, SHAPES["small"])
    taught, untaught = load_file(made / "model.safetensors"), load_file(tmp_path / "untaught" / "model.safetensors")
    assert taught.keys() == untaught.keys()
    assert all(float((taught[name] - untaught[name]).abs().max()) > 0 for name in taught)
    assert not list(made.glob("*.jsonl"))
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert warm_start.warm_started(cell.model_copy(update={"lr": 0.5, "staleness": 64}), cache, ranks) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before

"""SIGKILL at a random moment, resumed under another layout, twice: the losses are those of an undisturbed run."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from learner.checkpoint.store import completed
from tests.parallel.ranks import RankParent, run_cases, started

CHAIN = {  # layout by epoch; the last one is not killed
    1: (4, {"tensor": 2, "pipeline": 2, "virtual_pipeline": 2}),
    2: (2, {}),
    3: (4, {"pipeline": 4}),
}
DEADLINE_S = 300


@pytest.mark.timeout(600)
def test_killed_twice_and_resumed_under_other_layouts(references, tmp_path: Path):
    seed = random.randrange(1 << 30)
    print(f"moments of the kills: seed {seed}")
    draw = random.Random(seed)
    reference = references["qwen3"]
    root = tmp_path / "checkpoints"
    common = {"model": str(reference.directory), "sequences": str(reference.sequences), "run": "march"}
    common |= {"lr": 1e-3, "clip": 0.05, "eps": 1e-4, "micro_batches": 4}

    losses: dict[int, dict[int, float]] = {}
    for epoch, (world, parallel) in list(CHAIN.items())[:-1]:
        out = tmp_path / f"epoch{epoch}"
        out.mkdir()
        case = common | {
            "name": "march",
            "epoch": epoch,
            "parallel": parallel,
            "checkpoints": str(root),
            "steps": 10_000,
        }
        with started(world, [case], out) as ranks:
            _wait_for_checkpoints(root, epoch, draw.randint(2, 6), ranks, out)
            time.sleep(draw.uniform(0.0, 0.5))
            ranks.kill()
        losses[epoch] = _read(out / "march.losses")

    last, (world, parallel) = list(CHAIN.items())[-1]
    out = tmp_path / f"epoch{last}"
    out.mkdir()
    reached = max(int(path.name.split("_")[1]) for path in completed(root))
    case = common | {"name": "march", "epoch": last, "parallel": parallel, "checkpoints": str(root), "steps": 5}
    undisturbed = common | {"name": "undisturbed", "epoch": 1, "parallel": {"tensor": 2, "pipeline": 2}}
    longest = max(reached + 5, *(max(run) + 1 for run in losses.values()))
    undisturbed |= {"checkpoints": str(tmp_path / "none"), "every": 10_000, "steps": longest}
    run_cases(world, [case, undisturbed], out)
    losses[last], expected = _read(out / "march.losses"), _read(out / "undisturbed.losses")

    assert len(losses[last]) == 5
    assert min(losses[2]) > 0, "the second run started from the beginning"
    assert min(losses[3]) > min(losses[2])
    assert len({round(loss, 4) for loss in expected.values()}) > 5  # else the comparison says nothing
    for epoch, run in losses.items():
        assert run == pytest.approx({step: expected[step] for step in run}, abs=1e-6), f"epoch {epoch}, seed {seed}"


def _wait_for_checkpoints(root: Path, epoch: int, count: int, ranks: RankParent, out: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    seen: set[str] = set()  # retention removes the older ones
    while len(seen) < count:
        assert ranks.poll() is None, (out / "log").read_text()[-6000:]
        assert time.monotonic() < deadline, (
            f"{len(seen)} checkpoints of epoch {epoch}\n" + (out / "log").read_text()[-3000:]
        )
        seen |= (
            {path.name for path in completed(root) if path.name.endswith(f"_e{epoch:04d}")} if root.is_dir() else set()
        )
        time.sleep(0.01)


def _read(path: Path) -> dict[int, float]:
    """Step to loss. A kill may cut the last line off."""
    lines = [line.split() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {int(step): float(loss) for step, loss in lines}

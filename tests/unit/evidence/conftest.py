"""A policy of random weights in place of a warm-started one, and a process group of one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner.megatron.parallel import Ranks
from rollout.data.demo_model import write_model
from tests.evidence.cell import SHAPES, Cell
from tests.evidence.learning import Learning, learner_config, single_rank

Build = Callable[[Cell], Learning]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that has a first policy of every task with seed 0: its weights are random, so that nothing is to be taught."""
    for task in ("sort", "sumto"):
        write_model(tmp_path / "warm-1" / f"{task}-small-0", 0, SHAPES["small"])
    return tmp_path


@pytest.fixture
def ranks(cache: Path) -> Iterator[Ranks]:
    """This process as the only rank."""
    made = single_rank(learner_config(Cell(task="sort", objective="spo", lr=1e-3), cache))
    yield made
    made.stop()


@pytest.fixture
def build(cache: Path, ranks: Ranks) -> Build:
    """Builds the learner of a cell."""
    return lambda cell: Learning(cell, learner_config(cell, cache / "warm-1" / f"{cell.task}-small-0"), ranks)

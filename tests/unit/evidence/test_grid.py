"""The grid: every cell can be built, nothing is run twice, and the core is balanced whenever it is stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.evidence.cell import Cell
from tests.evidence.grid import OBJECTIVES, STALENESS, label, parts, short_parts, unique
from tests.evidence.learning import learner_config


def test_every_cell_is_a_valid_run_of_the_product():
    for cell in {(one.objective, str(one.constants), str(one.betas)): one for one in unique(parts())}.values():
        learner_config(cell, Path("unread"))


def test_no_cell_is_listed_twice():
    keys = Counter(one.key for one in unique(parts()))
    assert set(keys.values()) == {1}


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_of_the_core_has_every_objective_arm_task_and_staleness(seed: int):
    core = parts()[0]
    per_seed = len(core.cells) // 5
    cells = core.cells[seed * per_seed : (seed + 1) * per_seed]
    assert {one.seed for one in cells} == {seed}
    settings = Counter((label(one), one.arm, one.lr, one.task, one.staleness) for one in cells)
    assert len(settings) == len(OBJECTIVES) * 3 * 2 * len(STALENESS)
    assert set(settings.values()) == {1}


def test_the_short_grid_is_short():
    (part,) = short_parts()
    assert sum(one.steps for one in part.cells) <= 3000
    assert {one.arm for one in part.cells} == {"plain", "both"}


def test_an_objective_with_other_constants_has_them_in_its_label():
    assert label(Cell(task="sort", objective="spo", constants={"spo_alpha": 0.5}, lr=1e-3)) == "spo spo_alpha=0.5"

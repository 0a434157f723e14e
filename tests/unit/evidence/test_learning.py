"""A run of a few steps on the product's own learner: what is trained, published and measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rollout.data.tokenizer import Tokenizer
from tests.evidence.cell import Cell
from tests.evidence.fleet import Fleet
from tests.evidence.learning import Learning, Row
from tests.evidence.supply import PromptSupply
from tests.unit.evidence.conftest import Build

pytestmark = pytest.mark.filterwarnings("ignore:::megatron", "ignore::FutureWarning")

_CELL = Cell(task="sumto", objective="spo", lr=1e-3, staleness=2)


@pytest.fixture
def fleet(cache: Path) -> Fleet:
    """A fleet for `sumto`."""
    tokenizer = Tokenizer(cache / "warm-1" / "sumto-small-0")
    return Fleet(PromptSupply("sumto", 0, tokenizer), tokenizer, 8, 5)


def _steps(learning: Learning, fleet: Fleet, steps: int) -> list[Row]:
    """Makes steps whose rewards have a contrast in every group, as the policy is random."""
    rows = []
    for step in range(steps):
        groups = fleet.generate(step, learning.versions[step].sampler, 4).groups
        for group in groups:
            for number, response in enumerate(group.responses):
                response.reward = float(number % 2)
        rows.append(learning.step(step, groups))
        learning.publish(step + 1)
    return rows


def test_versions_are_held_for_as_long_as_their_tokens_may_be_trained(build: Build, fleet: Fleet):
    learning = build(_CELL)
    _steps(learning, fleet, 4)
    assert sorted(learning.versions) == [2, 3, 4]


def test_an_average_is_published_and_the_weights_themselves_are_trained(build: Build, fleet: Fleet):
    averaged, plain = build(_CELL.model_copy(update={"average": 0.9})), build(_CELL)
    before = [tensor.clone() for tensor in plain.versions[0].local]
    _steps(averaged, fleet, 1)
    _steps(plain, fleet, 1)
    moved = [float((new - old).norm()) for new, old in zip(averaged.versions[1].local, before, strict=True)]
    whole = [float((new - old).norm()) for new, old in zip(plain.versions[1].local, before, strict=True)]
    # A tenth of the step is in the average; Adam's first step has the same length whatever the gradient.
    assert sum(moved) == pytest.approx(0.1 * sum(whole), rel=0.1)


def test_the_governor_begins_low_and_the_probe_measures_every_fourth_step(build: Build, fleet: Fleet):
    rows = _steps(build(_CELL.model_copy(update={"governed": True})), fleet, 8)
    assert rows[0]["lr"] == pytest.approx(0.02 * 1e-3)
    assert rows[1]["lr"] == pytest.approx(0.02 * 1e-3 * 1.25)
    assert [step for step, row in enumerate(rows) if "drift" in row] == [3, 7]
    assert (rows[7]["drift"] or 0) > 0


def test_what_the_probe_measures_bounds_the_rate(build: Build, fleet: Fleet):
    rates = [
        row["lr"] for row in _steps(build(_CELL.model_copy(update={"governed": True, "drift_target": 1e-6})), fleet, 5)
    ]
    assert rates[4] is not None
    assert rates[4] < 0.02 * 1e-3 < (rates[3] or 0.0)


def test_log_mu_of_the_current_version_is_what_the_policy_says(build: Build, fleet: Fleet):
    learning = build(_CELL.model_copy(update={"objective": "grpo"}))
    (row,) = _steps(learning, fleet, 1)
    assert row["rho"] == pytest.approx(1.0, abs=1e-3)  # every ratio is 1 on-policy: nothing is clipped


def test_a_batch_without_contrast_trains_nothing(build: Build, fleet: Fleet):
    learning = build(_CELL)
    groups = fleet.generate(0, learning.versions[0].sampler, 4).groups
    for group in groups:
        for response in group.responses:
            response.reward = 1.0
    row = learning.step(0, groups)
    learning.publish(1)
    assert row["skipped"] == 1.0
    assert all(map(torch.equal, learning.versions[0].local, learning.versions[1].local))

"""The probe of the policy's movement: which steps count, what it compares, and what it says where there is nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.behaviour import drift_probe
from learner.behaviour.drift_probe import DriftProbe
from learner.behaviour.token_scorer import TokenScorer
from learner.config.control import LrControlConfig
from learner.control.drift_governor import Movement
from learner.megatron.parallel import Ranks
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import StepStats

RANKS = SimpleNamespace(
    device=torch.device("cpu"), is_last_stage=True, tensor_rank=0, context_rank=0, expert_size=1, data_size=1
)


class Model:
    """Gives every loss token the log-probability ``logp``."""

    def __init__(self) -> None:
        self.logp = -1.0
        self.scored: list[int] = []

    def prepare(self) -> None:
        pass

    def score(self, batch: Batch, weights: Any) -> list[torch.Tensor]:
        assert weights is None
        self.scored.append(sum(len(one.loss_row) for one in batch.micro_batches))
        return [torch.full((len(one.loss_row),), self.logp) for one in batch.micro_batches]


def batch(sequences: int = 8) -> Batch:
    tokens = torch.arange(12)
    return pack([Sequence(tokens, tokens >= 6, 1.0, 1.0) for _ in range(sequences)], Layout())


def stats(of: Batch, logp: float, skipped: str | None = None) -> StepStats:
    values = [torch.full((len(one.loss_row),), logp) for one in of.micro_batches]
    return StepStats(0.0, 1.0, {}, skipped, logp=values)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(dist, "all_reduce", lambda _: None)
    monkeypatch.setattr(drift_probe.dist, "all_reduce", lambda _: None)
    return Model()


def probe(model: Model, ranks: Any = RANKS, **settings: Any) -> DriftProbe:
    config = LrControlConfig(mode="drift", drift_every=2, **settings)
    tokens = TokenScorer(cast(Scorer, model), cast(Ranks, ranks), Layout(), seed=0)
    return DriftProbe(config, tokens, cast(Ranks, ranks))


def moved(drift: float, rate: float) -> Any:
    """A measurement over two steps, up to rounding."""
    return Movement(cast(float, pytest.approx(drift)), 2, cast(float, pytest.approx(rate)))


def test_a_measurement_compares_the_training_forward_with_a_later_one_of_a_share_of_the_responses(model: Model):
    found, one = probe(model, drift_share=0.25), batch()
    assert found.after_step(1, one, stats(one, -1.5), 0.1) is None
    assert not model.scored
    model.logp = -1.2
    assert found.after_step(2, batch(), stats(one, -9.0), 0.3) == moved(0.3, 0.2)
    assert model.scored == [2 * 6]  # two of eight responses, each with six tokens


def test_the_next_measurement_begins_with_the_next_step(model: Model):
    found, one = probe(model), batch()
    made = [found.after_step(step, one, stats(one, -1.0), 0.1) for step in range(1, 7)]
    assert [movement is not None for movement in made] == [False, True] * 3


@pytest.mark.parametrize("nothing", [lambda one: (None, None), lambda one: (one, stats(one, -2.0, "non-finite"))])
def test_steps_that_change_no_weights_do_not_count(model: Model, nothing: Any):
    found, one = probe(model), batch()
    trained, results = nothing(one)
    assert found.after_step(1, trained, results, 0.1) is None
    assert found.after_step(2, one, stats(one, -1.5), 0.1) is None
    assert found.after_step(3, trained, results, 0.1) is None
    assert found.after_step(4, one, stats(one, -1.0), 0.1) == moved(0.5, 0.1)


def test_frozen_steps_measure_nothing(model: Model):
    found, one = probe(model), batch()
    assert [found.after_step(step, one, stats(one, -1.5), 0.0) for step in (1, 2)] == [None, None]
    assert not model.scored


def test_a_log_probability_that_is_not_finite_shows(model: Model):
    found, one = probe(model), batch()
    found.after_step(1, one, stats(one, -1.5), 0.1)
    model.logp = float("-inf")
    movement = found.after_step(2, one, stats(one, -1.5), 0.1)
    assert movement is not None
    assert movement.drift == float("inf")


def test_ranks_that_have_the_numbers_of_another_count_nothing(model: Model):
    found, one = probe(model, SimpleNamespace(**{**vars(RANKS), "tensor_rank": 1})), batch()
    found.after_step(1, one, stats(one, -1.5), 0.1)
    assert found.after_step(2, one, stats(one, -1.5), 0.1) is None  # alone it has none


def test_the_sample_does_not_depend_on_the_layout():
    """Which responses are drawn is known of the whole step: data ranks take what they have of them."""
    scorer = TokenScorer(cast(Scorer, Model()), cast(Ranks, RANKS), Layout(), seed=3)
    lengths = range(8, 24)
    sequences = [Sequence(torch.arange(n), torch.arange(n) >= 4, 1.0, 1.0) for n in lengths]

    def drawn(layout: Layout, step: int) -> list[int]:
        found = []
        for rank in range(layout.data_ranks):
            one = pack(sequences, layout, rank)
            chosen = scorer.sample(one, step, 4.0)
            rows = [(k, row) for k, micro in enumerate(one.micro_batches) for row in micro.loss_row.tolist()]
            found += {one.members[k][row] for (k, row), flag in zip(rows, chosen.tolist(), strict=True) if flag}
        return sorted(found)

    alone = drawn(Layout(), 7)
    assert len(alone) == 4
    assert alone == drawn(Layout(data_ranks=2, min_micro_batches=3), 7)
    assert alone != drawn(Layout(), 8)

"""A step that is not finite: the groups that make it so are refused and the rest is trained, or the step is skipped."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from learner.batch.packing import Layout, pack
from learner.batch.sequences import to_sequences
from learner.batch.statistics import group_statistics
from learner.batch.types import Batch
from learner.control.controller import LearningRateDecision
from learner.intake.batch_source import TakenBatch
from learner.intake.preparation import PreparedBatch
from learner.megatron.training.trainer import Rate, StepStats
from learner.queue import GroupRef
from learner.train import _Outcome, _StepRate, _train_step
from leeway.v1 import rollout_pb2 as pb

BAD = 999  # a token that the model is not finite on
FLEETS = ["oslo", "tokyo", "oslo", "tokyo", "oslo", "tokyo", "oslo", "tokyo"]


def group(number: int, contrast: bool = True, bad: bool = False) -> pb.Group:
    tokens = np.array([10 + number, BAD if bad else 5], "<i4").tobytes()
    responses = [
        pb.Response(tokens=tokens, reward=reward, spans=[pb.Span(version=1, start=0, end=2)])
        for reward in (1.0, 0.0 if contrast else 1.0)
    ]
    return pb.Group(
        group_id=f"g{number}", prompt_id=f"p{number}", prompt_tokens=tokens[:4], responses=responses, temperature=1.0
    )


class Trainer:
    """Is not finite on a batch that holds the bad token, or on any; records what it trained."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.trained: list[Batch] = []
        self.rates: list[float] = []
        self.passes = 0

    def gradient(self, batch: Batch, objective: Any) -> StepStats:
        self.passes += 1
        tokens = torch.cat([micro_batch.tokens.flatten() for micro_batch in batch.micro_batches])
        bad = self.broken or bool((tokens == BAD).any())
        reason = "non-finite gradient (norm nan)" if bad else None
        weights = [float(index) for index in range(batch.groups)]
        return StepStats(0.5, float("nan") if bad else 1.0, {}, reason, None, weights)

    def train_step(self, batch: Batch, objective: Any, lr: Rate) -> StepStats:
        stats = self.gradient(batch, objective)
        if stats.finite:
            self.trained.append(batch)
            self.rates.append(lr(stats) if callable(lr) else lr)
        return stats


class FakeRun:
    """What a step uses of a run, for one data rank."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.layout, self.objective = trainer, Layout(min_micro_batches=2), None
        self.config = SimpleNamespace(max_staleness=4)
        self.alive = 0
        self.watchdog = SimpleNamespace(alive=self._count)
        self.refused: list[tuple[int, list[str], str]] = []

    def refuse(self, step: int, taken: TakenBatch, groups: set[int], fault: str) -> None:
        self.refused.append((step, [taken.refs[index].group_id for index in sorted(groups)], fault))

    def _count(self) -> None:
        self.alive += 1


class Rates:
    """A controller of the learning rate that counts how often a decision is settled."""

    def __init__(self) -> None:
        self.settled = 0

    def settle(self, decision: LearningRateDecision, metrics: Any, cosine: float | None) -> LearningRateDecision:
        self.settled += 1
        return replace(decision, rate=0.1)


def step(run: FakeRun, groups: list[pb.Group], uncounted: int = 0, rate: Rate | None = None) -> _Outcome:
    refs = [GroupRef(FLEETS[number], one.group_id, f"{number}-0") for number, one in enumerate(groups)]
    taken = TakenBatch(groups, refs, {1: 2}, FLEETS[: len(groups)], uncounted)
    sequences = to_sequences(taken.counted)
    batch = pack(sequences, run.layout) if sequences else None
    prepared = PreparedBatch(taken, group_statistics(groups, {1: 2}, 4), sequences, batch)
    return _train_step(cast(Any, run), 7, prepared, batch, rate or (lambda stats: 0.1 * stats.grad_norm))


def test_a_finite_step_is_one_pass():
    run = FakeRun(Trainer())
    made = step(run, [group(number) for number in range(8)])
    assert (run.trainer.passes, run.refused, run.trainer.rates) == (1, [], [0.1])
    assert len(made.taken.groups) == 8
    assert made.stats is not None
    assert made.stats.group_weights == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("bad", [0, 5, 7])
def test_the_guilty_group_is_refused_and_the_rest_is_trained_in_the_same_step(bad: int):
    run = FakeRun(Trainer())
    made = step(run, [group(number, bad=number == bad) for number in range(8)])
    assert run.refused == [(7, [f"g{bad}"], "non-finite gradient (norm nan)")]
    left = [number for number in range(8) if number != bad]
    assert [one.group_id for one in made.taken.groups] == [f"g{number}" for number in left]
    assert [ref.group_id for ref in made.taken.refs] == [f"g{number}" for number in left]
    assert made.taken.fleets == [FLEETS[number] for number in left]
    (batch,) = run.trainer.trained
    assert run.trainer.rates == [0.1]  # decided from the gradient without the guilty group
    assert made.batch is batch
    assert (batch.sequences, batch.tokens) == (14, 14 * 3)
    assert len(batch.micro_batches) == 2
    tokens = torch.cat([micro_batch.tokens.flatten() for micro_batch in batch.micro_batches]).tolist()
    assert {10 + number for number in left} <= set(tokens)
    assert not {10 + bad, BAD} & set(tokens)
    assert made.stats is not None
    assert made.stats.group_weights == left
    assert made.groups.responses == 14
    assert run.alive == run.trainer.passes - 2  # the watchdog hears of every pass but the two steps


@pytest.mark.parametrize(("bad", "broken", "settled"), [(None, False, 1), (5, False, 1), (None, True, 0)])
def test_the_rate_is_settled_once_and_a_step_that_is_skipped_leaves_it(bad: int | None, broken: bool, settled: int):
    run, rates = FakeRun(Trainer(broken)), Rates()
    rate = _StepRate(cast(Any, rates), LearningRateDecision(0.5, 0.5, False))
    step(run, [group(number, bad=number == bad) for number in range(8)], rate=rate)
    assert (rates.settled, rate.decision.rate) == (settled, 0.1 if settled else 0.5)
    assert run.trainer.rates == [0.1] * settled


def test_groups_without_contrast_are_no_suspects_and_stay_among_the_trained():
    run = FakeRun(Trainer())
    made = step(run, [group(0), group(1, contrast=False), group(2, bad=True), group(3)])
    assert run.refused == [(7, ["g2"], "non-finite gradient (norm nan)")]
    assert [one.group_id for one in made.taken.groups] == ["g0", "g1", "g3"]


def test_a_guilty_group_leaves_the_uncounted_ones_among_the_trained():
    """They are in the ledger, the checkpoint and the statistics; the guilty one is in none of them."""
    run = FakeRun(Trainer())
    groups = [group(0), group(1), group(2, bad=True), group(3), group(4, contrast=False), group(5, contrast=False)]
    made = step(run, groups, uncounted=2)
    assert run.refused == [(7, ["g2"], "non-finite gradient (norm nan)")]
    assert [ref.group_id for ref in made.taken.refs] == ["g0", "g1", "g3", "g4", "g5"]
    assert ([one.group_id for one in made.taken.counted], made.taken.uncounted) == (["g0", "g1", "g3"], 2)
    assert made.groups.responses == 10


@pytest.mark.parametrize(
    ("trainer", "bad"), [(Trainer(broken=True), set()), (Trainer(), {1, 4, 6}), (Trainer(), set(range(8)))]
)
def test_a_model_that_is_not_finite_skips_the_step_and_refuses_nobody(trainer: Trainer, bad: set[int]):
    run = FakeRun(trainer)
    made = step(run, [group(number, bad=number in bad) for number in range(8)])
    assert (run.refused, trainer.trained, len(made.taken.groups)) == ([], [], 8)
    assert made.stats is not None
    assert made.stats.skipped == "non-finite gradient (norm nan)"


def test_a_step_of_unscored_groups_trains_nothing():
    groups = [group(number) for number in range(3)]
    for one in groups:
        one.responses[
            0
        ].unscored = "reward_timeout"  # a single scored response is left, which has nothing to differ from
    made = step(FakeRun(Trainer()), groups)
    assert (made.batch, made.stats, len(made.taken.groups)) == (None, None, 3)
    assert (made.groups.reward, made.groups.unscored_groups) == (0.0, 3)


def test_a_step_without_contrast_trains_nothing():
    made = step(FakeRun(Trainer()), [group(number, contrast=False) for number in range(3)])
    assert (made.batch, made.stats, len(made.taken.groups)) == (None, None, 3)

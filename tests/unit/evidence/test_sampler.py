"""The sampler computes what the learner computes."""

from __future__ import annotations

import pytest
import torch

from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from rollout.data.demo_model import EOS
from tests.evidence.cell import Cell
from tests.evidence.sampler import Sampled, Sampler
from tests.unit.evidence.conftest import Build

pytestmark = pytest.mark.filterwarnings("ignore:::megatron", "ignore::FutureWarning")

# Prompts of different length, so that some are padded.
_PROMPTS = [[14, 3, 1, 4, 1, 5, 9, 11], [14, 2, 11], [14, 7, 7, 7, 11]]
_CELL = Cell(task="sort", objective="spo", lr=1e-3)


def _sample(sampler: Sampler, temperature: float = 1.0, seed: int = 0) -> Sampled:
    return sampler.sample(_PROMPTS, 5, 6, temperature, torch.Generator().manual_seed(seed))


def test_log_probabilities_are_those_of_the_learners_scorer(build: Build):
    learning = build(_CELL)
    version = learning.versions[0]
    sampled = _sample(version.sampler)
    rows = []
    for index, response in enumerate(sampled.tokens):
        prompt = _PROMPTS[index // 5]
        tokens = torch.tensor([*prompt, *response])
        rows.append(Sequence(tokens, torch.arange(len(tokens)) >= len(prompt), 1.0, 1.0))
    batch = pack(rows, Layout())
    (scored,) = learning.scorer.score(batch, version.local)
    mine = {}
    for index, response in enumerate(sampled.tokens):
        mine[index] = sampled.logp[index, : len(response)]
    members = batch.members[0]
    expected = torch.cat([mine[index] for index in members])
    assert (scored - expected).abs().max() < 1e-4


def test_the_end_token_ends_a_response_and_nothing_follows_it(build: Build):
    sampled = _sample(build(_CELL).versions[0].sampler)
    assert any(tokens[-1] == EOS for tokens in sampled.tokens)
    for tokens, logp in zip(sampled.tokens, sampled.logp, strict=True):
        assert EOS not in tokens[:-1]
        assert len(tokens) == 6 or tokens[-1] == EOS
        assert (logp[: len(tokens)] < 0).all()
        assert (logp[len(tokens) :] == 0).all()


def test_a_greedy_response_is_the_same_in_all_of_a_group_and_whatever_the_seed(build: Build):
    sampler = build(_CELL).versions[0].sampler
    first, other = _sample(sampler, 0.0, seed=0), _sample(sampler, 0.0, seed=1)
    assert first.tokens == other.tokens
    assert all(first.tokens[index] == first.tokens[index - index % 5] for index in range(15))


def test_draws_follow_the_seed(build: Build):
    sampler = build(_CELL).versions[0].sampler
    assert _sample(sampler, seed=3).tokens == _sample(sampler, seed=3).tokens
    assert _sample(sampler, seed=3).tokens != _sample(sampler, seed=4).tokens

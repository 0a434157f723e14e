"""Groups as a fleet submits them, scored by the task; prompts for evaluation apart from the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.batch.sequences import token_ids
from rollout.data.tokenizer import Tokenizer
from rollout.tasks.held_out import is_held_out
from tests.evidence.cell import Cell
from tests.evidence.fleet import Fleet
from tests.evidence.supply import PromptSupply
from tests.unit.evidence.conftest import Build

pytestmark = pytest.mark.filterwarnings("ignore:::megatron", "ignore::FutureWarning")


def test_rewards_spans_and_tokens_are_those_of_the_responses(build: Build, cache: Path):
    tokenizer = Tokenizer(cache / "warm-1" / "sumto-small-0")
    supply = PromptSupply("sumto", 0, tokenizer)
    sampler = build(Cell(task="sumto", objective="spo", lr=1e-3)).versions[0].sampler
    rollout = Fleet(supply, tokenizer, 8, 5).generate(3, sampler, 40)
    assert [len(group.responses) for group in rollout.groups] == [8] * 40
    rewards = []
    for group, question in zip(rollout.groups, PromptSupply("sumto", 0, tokenizer).take(40), strict=True):
        assert group.prompt_id == question.prompt.prompt_id
        assert token_ids(group.prompt_tokens).tolist() == question.ids
        for response in group.responses:
            text = tokenizer.text(token_ids(response.tokens).tolist())
            assert response.reward == float(text.isdigit() and sum(map(int, text)) == question.prompt.data)
            (span,) = response.spans
            assert (span.version, span.start, span.end) == (3, 0, len(response.tokens) // 4)
            rewards.append(response.reward)
    assert 0 < sum(rewards) < len(rewards)
    assert rollout.reward == sum(rewards) / len(rewards)


def test_held_out_prompts_are_not_trained_on(cache: Path):
    tokenizer = Tokenizer(cache / "warm-1" / "sort-small-0")
    for held_out in (False, True):
        for question in PromptSupply("sort", 0, tokenizer, held_out).take(200):
            assert is_held_out(question.prompt.prompt_id, 0.1) == held_out


def test_sumto_trains_and_evaluates_all_of_its_prompts(cache: Path):
    tokenizer = Tokenizer(cache / "warm-1" / "sumto-small-0")
    for held_out in (False, True):
        asked = PromptSupply("sumto", 0, tokenizer, held_out).take(600)
        assert {question.prompt.data for question in asked} == set(range(1, 46))

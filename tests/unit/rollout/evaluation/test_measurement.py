"""One evaluation with a scripted generator: what is measured, and what is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout.config import TaskConfig
from rollout.config.evaluation import EvaluationSampling, EvaluatorConfig
from rollout.engine.response import VersionSpan
from rollout.episodes.record import SegmentRecord
from rollout.evaluation.measurement import EvaluationError, MixedVersionsError, evaluate_prompts
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import Generated, MadeGroup
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score

TASK = TaskConfig()


def config(**changes: Any) -> EvaluatorConfig:
    path = Path("/nowhere")
    return EvaluatorConfig(model=path, state_dir=path, results=path / "e.jsonl", log_dir=path, task=(TASK,), **changes)


def outcome(reward: float | None, *versions: int, finish: Any = "stop") -> ResponseOutcome:
    spans = [VersionSpan(version, 2 * number, 2 * number + 2) for number, version in enumerate(versions)]
    segment = SegmentRecord([1], [2] * 2 * len(versions), spans, "first")
    score = None if reward is None else Score(reward, {"exact": reward})
    return ResponseOutcome([segment], finish, score, "" if score else "reward_error", "" if score else "no judge")


class Scripted:
    """Answers every prompt with the same outcomes."""

    def __init__(self, *outcomes: ResponseOutcome) -> None:
        self.outcomes = outcomes
        self.requests: list[int] = []

    async def generate(self, asked: Sequence[AskedPrompt]) -> Generated:
        self.requests.append(len(asked))
        withdrawn = Withdrawal("reward_error", "")  # whether there is a group to train on does not matter
        return Generated([MadeGroup(one, [1], self.outcomes, withdrawn) for one in asked], 0, 0, 0)


def prompts(count: int) -> list[AskedPrompt]:
    return [AskedPrompt(0, index, Prompt(str(index), text="?")) for index in range(count)]


async def test_what_is_measured():
    generator = Scripted(outcome(1.0, 7), outcome(0.0, 7, 7, finish="length"), outcome(None, 7))
    sampling = EvaluationSampling(samples=3, temperature=1.0)
    found = await evaluate_prompts(generator, prompts(2), 7, config(), (TASK, sampling))
    assert (found.version, found.name, found.sampling, found.prompts, found.samples) == (7, "sort", "sampled", 2, 3)
    assert found.unscored == 2
    assert found.prompt_means == [0.5, 0.5]
    values = {name: one.value for name, one in found.metrics.items()}
    assert values == pytest.approx(
        {
            "mean@3": 0.5, "pass@1": 0.5, "pass@2": 1.0, "part/exact": 0.5, "truncated": 1 / 3,
            "length_mean": 8 / 3, "length_p50": 2.0, "length_p95": 4.0, "length_max": 4.0,
        }
    )  # fmt: skip


async def test_a_token_of_another_version_throws_the_evaluation_away():
    generator = Scripted(outcome(1.0, 7), outcome(1.0, 7, 8))
    with pytest.raises(MixedVersionsError, match="version 7: tokens of version 8 among the responses"):
        await evaluate_prompts(generator, prompts(2), 7, config(), (TASK, EvaluationSampling(samples=2)))


async def test_nothing_judged_is_an_error_and_not_a_zero():
    with pytest.raises(EvaluationError, match="none of the responses could be judged; the first: no judge"):
        await evaluate_prompts(Scripted(outcome(None, 7)), prompts(2), 7, config(), (TASK, EvaluationSampling()))


async def test_what_counts_as_right_is_a_setting():
    sampling = EvaluationSampling()
    found = await evaluate_prompts(Scripted(outcome(0.5, 7)), prompts(2), 7, config(solved_at=0.5), (TASK, sampling))
    assert found.metrics["pass@1"].value == 1.0


async def test_the_responses_under_way_at_once_are_bounded():
    generator = Scripted(*[outcome(1.0, 7)] * 64)
    await evaluate_prompts(generator, prompts(10), 7, config(), (TASK, EvaluationSampling(samples=64)))
    assert generator.requests == [4, 4, 2]

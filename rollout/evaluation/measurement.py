"""One evaluation: responses of one version to a set of prompts, and what they are worth."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from rollout.config.evaluation import EvaluationSampling, EvaluatorConfig, evaluation_name
from rollout.config.task import TaskConfig
from rollout.evaluation.results import EvaluationResult
from rollout.evaluation.statistics import MeasuredResponse, measure
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import Generated, MadeGroup
from rollout.generation.outcome import ResponseOutcome
from runtime.errors import LeewayError

_RESPONSES_AT_ONCE = 256


class EvaluationError(LeewayError):
    """An evaluation that gave no result; nothing of it is reported."""


class MixedVersionsError(EvaluationError):
    """Tokens of another version than the one that was evaluated."""


class Generator(Protocol):
    """What makes groups: GroupGenerator."""

    async def generate(self, asked: Sequence[AskedPrompt]) -> Generated:
        """Generates and scores the groups of some prompts."""
        ...


async def evaluate_prompts(
    generator: Generator,
    asked: Sequence[AskedPrompt],
    version: int,
    config: EvaluatorConfig,
    what: tuple[TaskConfig, EvaluationSampling],
) -> EvaluationResult:
    """Asks every prompt and measures the responses.

    Args:
        generator: makes the responses, with engines that serve the version.
        asked: the prompts.
        version: the version that has to have made every token.
        config: of the evaluator.
        what: the task and the sampling, whose names the result has.

    Raises:
        MixedVersionsError: another version has made a token.
        EvaluationError: no response could be judged, or none was made.
        EngineError: the engine could not answer.
    """
    task, sampling = what
    begun = time.time()
    made = await _responses(generator, asked, sampling.samples)
    foreign = versions_of(outcome for group in made for outcome in group.outcomes) - {version}
    if foreign:
        raise MixedVersionsError(
            f"version {version}: tokens of version {', '.join(map(str, sorted(foreign)))} among the responses: not reported"
        )
    measured = [[measured_response(outcome) for outcome in group.outcomes if outcome.segments] for group in made]
    metrics = measure(measured, sampling.samples, config.solved_at, config.seed)
    judged = sum(one.reward is not None for responses in measured for one in responses)
    if not judged:
        why = next((outcome.message for group in made for outcome in group.outcomes if outcome.message), "")
        raise EvaluationError(f"version {version}: none of the responses could be judged; the first: {why}")
    return EvaluationResult(
        version=version,
        name=evaluation_name(task),
        sampling=sampling.name,
        prompts=len(asked),
        samples=sampling.samples,
        unscored=len(asked) * sampling.samples - judged,
        metrics=metrics,
        seconds=round(time.time() - begun, 3),
        time=round(time.time(), 3),
        prompt_means=[mean_reward(responses) for responses in measured],
    )


def versions_of(outcomes: Iterable[ResponseOutcome]) -> set[int]:
    """Returns the versions that have made tokens of the responses."""
    return {span.version for outcome in outcomes for segment in outcome.segments for span in segment.spans}


def measured_response(outcome: ResponseOutcome) -> MeasuredResponse:
    """Returns what is counted of a response."""
    return MeasuredResponse(
        reward=None if outcome.score is None else outcome.score.reward,
        tokens=sum(span.end - span.start for segment in outcome.segments for span in segment.spans),
        truncated=outcome.finish == "length",
        parts={} if outcome.score is None else outcome.score.parts,
    )


def mean_reward(responses: Sequence[MeasuredResponse]) -> float | None:
    """The mean reward of a prompt's judged responses, to 6 places; None if there is none."""
    rewards = [one.reward for one in responses if one.reward is not None]
    return round(math.fsum(rewards) / len(rewards), 6) if rewards else None


async def _responses(generator: Generator, asked: Sequence[AskedPrompt], samples: int) -> list[MadeGroup]:
    """Asks for the groups of all prompts, a bounded number of responses at once."""
    size = max(1, _RESPONSES_AT_ONCE // samples)
    made: list[MadeGroup] = []
    for start in range(0, len(asked), size):
        made += (await generator.generate(asked[start : start + size])).groups
        await asyncio.sleep(0)
    return made

"""Groups sampled from one version and scored by the task, in the form in which a fleet submits them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from leeway.v1 import rollout_pb2 as pb
from rollout.data.demo_model import EOS
from rollout.data.tokenizer import Tokenizer
from tests.evidence.sampler import Sampler
from tests.evidence.supply import MOST_TOKENS, PromptSupply, Question


@dataclass(frozen=True)
class Rollout:
    """A batch of groups of one version.

    Attributes:
        groups: a group for each prompt.
        reward: mean reward of all responses.
        entropy: mean entropy of the distributions that tokens were drawn from, nats.
    """

    groups: list[pb.Group]
    reward: float
    entropy: float


class Fleet:
    """Samples and scores groups.

    Args:
        supply: where prompts come from.
        tokenizer: of the model.
        responses: responses in a group.
        seed: of the sampling.
    """

    def __init__(self, supply: PromptSupply, tokenizer: Tokenizer, responses: int, seed: int) -> None:
        self._supply = supply
        self._tokenizer = tokenizer
        self._responses = responses
        self._most_tokens = MOST_TOKENS[supply.task.name]
        self._generator = torch.Generator().manual_seed(seed)

    def generate(self, version: int, sampler: Sampler, prompts: int) -> Rollout:
        """Samples a group for each of the next ``prompts`` prompts, at temperature 1."""
        questions = self._supply.take(prompts)
        ids = [question.ids for question in questions]
        sampled = sampler.sample(ids, self._responses, self._most_tokens, 1.0, self._generator)
        count = self._responses
        groups = [
            self._group(question, sampled.tokens[index * count : (index + 1) * count], version)
            for index, question in enumerate(questions)
        ]
        reward = statistics.fmean(response.reward for group in groups for response in group.responses)
        return Rollout(groups, reward, sampled.entropy)

    def evaluate(self, sampler: Sampler, questions: Sequence[Question], samples: int, temperature: float) -> float:
        """Mean reward of ``samples`` responses to each of some prompts; temperature 0 is greedy."""
        ids = [question.ids for question in questions]
        sampled = sampler.sample(ids, samples, self._most_tokens, temperature, self._generator)
        asked = [question for question in questions for _ in range(samples)]
        return statistics.fmean(map(self._reward, asked, sampled.tokens))

    def _group(self, question: Question, responses: Sequence[Sequence[int]], version: int) -> pb.Group:
        made = [
            pb.Response(
                tokens=_wire(tokens),
                reward=self._reward(question, tokens),
                finish_reason=pb.FINISH_REASON_STOP if tokens[-1] == EOS else pb.FINISH_REASON_LENGTH,
                spans=[pb.Span(start=0, end=len(tokens), version=version)],
            )
            for tokens in responses
        ]
        name = self._supply.task.name
        return pb.Group(
            prompt_id=question.prompt.prompt_id,
            prompt_tokens=_wire(question.ids),
            task=name,
            responses=made,
            temperature=1.0,
        )

    def _reward(self, question: Question, tokens: Sequence[int]) -> float:
        reward = self._supply.task.reward(question.prompt, self._tokenizer.text(tokens))
        assert isinstance(reward, float)
        return reward


def _wire(ids: Sequence[int]) -> bytes:
    return np.array(ids, "<i4").tobytes()

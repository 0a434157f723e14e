"""Responses of several segments: ASymPO by hand; one that is cut at environment tokens has the gradient of the uncut one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from learner import objectives
from learner.batch.packing import Layout, pack
from learner.batch.sequences import to_sequences
from learner.batch.types import MicroBatch
from learner.config.objective import ObjectiveConfig
from learner.objectives import Objective, Responses
from learner.objectives.asympo import Asympo
from leeway.v1 import rollout_pb2 as pb

VOCABULARY, WIDTH = 12, 8


def ids(*tokens: int) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def spans(*ranges: tuple[int, int]) -> list[pb.Span]:
    return [pb.Span(version=1, start=start, end=end) for start, end in ranges]


def test_asympo_by_hand():
    """One response of log p (-1, -3) and, in a second segment, -5: S = 3, not 2 and 5. The other one is -4: S = 4.

    Token 4 is the environment's. With A = +-1/2 and 1 / (G P) = 1/2, dL/dlogp = -(1/2) A / (m S).
    """
    segments = [
        pb.Segment(context_tokens=ids(7), tokens=ids(1, 4, 2), spans=spans((0, 1), (2, 3))),
        pb.Segment(context_tokens=ids(8, 9), tokens=ids(3), spans=spans((0, 1))),
    ]
    right, wrong = pb.Response(segments=segments, reward=1), pb.Response(tokens=ids(5), reward=0, spans=spans((0, 1)))
    group = pb.Group(prompt_tokens=ids(6), responses=[right, wrong], temperature=1.0)
    (micro,) = pack(to_sequences([group]), Layout()).micro_batches
    table = torch.tensor([0, -1, -3, -5, 0, -4, 0], dtype=torch.float64, requires_grad=True)  # log p by token id
    loss, metrics = Asympo()(table[micro.loss_target], Responses.of(micro))
    loss.backward()
    assert loss.item() == pytest.approx(0.0)
    assert table.grad is not None
    assert table.grad.tolist() == pytest.approx([0, -1 / 36, -1 / 36, -1 / 36, 0, 1 / 16, 0])
    assert (metrics["nll_positive_sum"].item(), metrics["nll_positive_count"].item()) == (3.0, 1.0)
    assert metrics["rho_sum"].item() / metrics["rho_count"].item() == pytest.approx(3 / 4)


class Causal(torch.nn.Module):
    """One layer of attention with positions, in float64, over each segment of a micro-batch by itself."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        shapes = [(VOCABULARY, WIDTH), (64, WIDTH), *[(WIDTH, WIDTH)] * 3, (WIDTH, VOCABULARY)]
        drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
        self.weights = torch.nn.ParameterList(drawn)

    def forward(self, micro: MicroBatch) -> Tensor:
        """Log-probabilities of the loss tokens, [L] float64."""
        bounds = micro.cu_seqlens.tolist()
        logits = torch.cat([self._logits(micro.tokens[0, a:b]) for a, b in itertools.pairwise(bounds)])
        logp = torch.log_softmax(logits[micro.loss_index] / micro.temperature[:, None].double(), -1)
        return logp.gather(1, micro.loss_target[:, None])[:, 0]

    def _logits(self, tokens: Tensor) -> Tensor:
        embedding, places, query, key, value, head = self.weights
        x = embedding[tokens] + places[: len(tokens)]
        scores = (x @ query) @ (x @ key).T / WIDTH
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return (x + scores.masked_fill(hidden, float("-inf")).softmax(-1) @ (x @ value)) @ head


def episode(draw: random.Random, reward: float) -> tuple[list[int], list[bool], float]:
    """Tokens of three turns and which of them the policy generated; the environment speaks in between."""
    own = [flag for turn in (2, 3, 1) for flag in [True] * turn + [False] * draw.randint(1, 3)][:-1]
    return [draw.randrange(VOCABULARY) for _ in own], own, reward


def runs(own: list[bool]) -> list[tuple[int, int]]:
    """Start and end of each run of generated tokens."""
    edges = [i for i, (a, b) in enumerate(itertools.pairwise([False, *own, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def response(prompt: list[int], made: tuple[list[int], list[bool], float], cuts: int) -> pb.Response:
    """The episode in ``cuts`` + 1 segments, each of which has everything before it as its context."""
    tokens, own, reward = made
    turns = runs(own)
    if not cuts:
        return pb.Response(tokens=ids(*tokens), reward=reward, spans=spans(*turns))
    parts = [turns[:1], turns[1:]] if cuts == 1 else [[turn] for turn in turns]
    segments = [
        pb.Segment(
            context_tokens=ids(*prompt, *tokens[: part[0][0]]),
            tokens=ids(*tokens[part[0][0] : part[-1][1]]),
            spans=spans(*((start - part[0][0], end - part[0][0]) for start, end in part)),
        )
        for part in parts
    ]
    return pb.Response(segments=segments, reward=reward)


def gradient(groups: list[pb.Group], objective: Objective) -> list[Tensor]:
    model = Causal()
    for micro in pack(to_sequences(groups, objective.weighting), Layout(max_tokens=40)).micro_batches:
        logp = model(micro)
        objective(logp, Responses(micro.loss_row, micro.advantage, micro.weight, logp.detach() - 0.1))[0].backward()
    return [weight.grad for weight in model.weights if weight.grad is not None]


@pytest.mark.parametrize("name", [name for name in objectives.names() if name != "sft"])
def test_a_response_cut_at_environment_tokens_has_the_gradient_of_the_uncut_one(name: str):
    objective = objectives.get(ObjectiveConfig(name=name))
    draw = random.Random(7)
    prompts = [[draw.randrange(VOCABULARY) for _ in range(length)] for length in (2, 4)]
    episodes = [[episode(draw, reward) for reward in (1.0, 0.0, 0.0)] for _ in prompts]

    def groups(cuts: list[int]) -> list[pb.Group]:
        return [
            pb.Group(
                prompt_tokens=ids(*prompt),
                temperature=0.7,
                responses=[response(prompt, one, cut) for one, cut in zip(made, cuts, strict=True)],
            )
            for prompt, made in zip(prompts, episodes, strict=True)
        ]

    uncut, cut = gradient(groups([0, 0, 0]), objective), gradient(groups([2, 1, 0]), objective)
    assert len(uncut) == len(cut) == 6
    for before, after in zip(uncut, cut, strict=True):
        assert float(before.norm()) > 1e-3
        assert float((after - before).norm() / before.norm()) < 1e-9, name

"""Groups for the tests of objectives, and their conversion to micro-batches by advantages, weights and packing."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from learner import objectives
from learner.batch.packing import Layout, pack
from learner.batch.sequences import to_sequences
from learner.batch.types import MicroBatch
from learner.config.objective import ObjectiveConfig
from learner.objectives import Objective, Responses
from leeway.v1 import rollout_pb2 as pb
from tests.tools.objective_reference import Group, Response

WHOLE = Layout(max_tokens=10**6)
VARIANTS: dict[str, dict[str, object]] = {
    "asympo": {"name": "asympo", "rho_max": "off"},
    "asympo_guard": {"name": "asympo", "rho_max": 0.1},
    "asympo_clip": {"name": "asympo", "rho_max": "off", "p_low": 0.02, "p_high": 0.98},
    "spo_batch": {"name": "spo", "mean": "batch"},
    "grpo_free": {"name": "grpo", "dual_clip": "off"},
    "grpo_verl": {"name": "grpo", "mean": "batch", "advantage": "std_unbiased"},
    "grpo_group": {"name": "grpo", "mean": "group", "advantage": "std_unbiased"},
    "dapo": {"name": "grpo", "mean": "batch", "clip_high": 0.28},
    "tis_batch": {"name": "tis", "mean": "batch"},
    "cispo_response": {"name": "cispo", "mean": "response"},
    "dppo_group": {"name": "dppo", "mean": "group"},
    "dppo_kl": {"name": "dppo", "dppo_divergence": "kl", "dppo_low": 0.02, "dppo_high": 0.08},
    "dppo_prime": {"name": "dppo", "dppo_low": 0.1, "dppo_high": 0.2, "dppo_kl": 0.05},
    "drpo_group": {"name": "drpo", "mean": "group"},
    "m2po_group": {"name": "m2po", "mean": "group"},
    "m2po_batch": {"name": "m2po", "m2po_over": "batch"},
}


def objective(variant: str, **constants: object) -> Objective:
    """Builds an objective, or one of VARIANTS, by its name in the reference's TERMS."""
    return objectives.get(ObjectiveConfig.parse(VARIANTS.get(variant, {"name": variant}) | constants, "test"))


def random_groups(seed: int, rewards: list[list[float]], longest: int = 12) -> list[Group]:
    """Groups of ordinary numbers: log-probabilities in (-3, -0.1), behaviour within some tenths of them."""
    source = random.Random(seed)
    return [[_response(source, reward, source.randint(1, longest)) for reward in group] for group in rewards]


def _response(source: random.Random, reward: float, length: int) -> Response:
    logp = [-0.1 - 2.9 * source.random() for _ in range(length)]
    return Response(reward, logp, [min(-1e-3, value + source.gauss(0, 0.4)) for value in logp])


def hard_groups() -> list[Group]:
    """Groups with numerically hard cases.

    They have both signs of the advantage, a reward at its group's mean, equal rewards (0.1 seven times: the mean is not 0.1
    in binary), one-token responses, S near 0, 40-nat tokens, and tokens that went from certain to nearly impossible and back.
    """
    groups = random_groups(1, [[1, 0, 1, 0], [1, 1, 1], [0, 0.5, 1], [0.1] * 7, [0, 1]])
    groups[0][0] = Response(1, [-1e-7], [-0.2])
    groups[0][1] = Response(0, [-1e-6] * 7, [-1e-6] * 7)
    groups[2][0] = Response(0, [-40.0, -0.5, -1e-7, -2.0], [-1e-7, -0.4, -40.0, -2.0])
    groups[2][2] = Response(1, [-40.0, -0.5, -1e-3, -2.0], [-1e-3, -0.7, -40.0, -2.0])
    groups[4] = [Response(0, [-40.0], [-39.0]), Response(1, [-1e-5], [-3.0])]
    return groups


def micro_batches(groups: list[Group], chosen: Objective, layout: Layout) -> list[MicroBatch]:
    """Packs micro-batches for all ranks, with log mu. Token i of the groups has id i + 1; id 0 is the prompt."""
    behaviour = torch.tensor([0.0, *(m for group in groups for response in group for m in response.mu)]).double()
    following = iter(range(1, len(behaviour)))
    wire = [
        pb.Group(
            prompt_tokens=np.zeros(2, "<i4").tobytes(),
            temperature=1.0,
            responses=[
                pb.Response(
                    reward=response.reward,
                    tokens=np.array([next(following) for _ in response.logp], "<i4").tobytes(),
                    spans=[pb.Span(version=1, start=0, end=len(response.logp))],
                )
                for response in group
            ],
        )
        for group in groups
    ]
    sequences = [replace(s, behaviour_logp=behaviour[s.tokens]) for s in to_sequences(wire, chosen.weighting)]
    if not sequences:
        return []
    return [micro for rank in range(layout.data_ranks) for micro in pack(sequences, layout, rank).micro_batches]


def evaluate(
    groups: list[Group], chosen: Objective, layout: Layout = WHOLE, dtype: torch.dtype = torch.float64
) -> tuple[float, Tensor, dict[str, float]]:
    """Computes loss, gradient by token [N] and summed metrics of a step that is packed with ``layout``."""
    table = log_probabilities(groups, dtype).requires_grad_()
    total, sums = 0.0, dict[str, float]()
    packed = micro_batches(groups, chosen, layout)
    survey(chosen, packed, table)
    for micro in packed:
        loss, metrics = chosen(table[micro.loss_target], Responses.of(micro))
        loss.backward()
        total += loss.item()
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return total, torch.zeros(len(table) - 1, dtype=dtype) if table.grad is None else table.grad[1:], sums


def survey(chosen: Objective, packed: list[MicroBatch], table: Tensor) -> None:
    """Shows the objective the whole step, if it needs that; ``table``: log p by token id."""
    if chosen.needs_survey and packed:
        ratios = [table.detach()[micro.loss_target] - _log_mu(micro) for micro in packed]
        chosen.survey(torch.cat(ratios), torch.cat([micro.advantage[micro.loss_row] for micro in packed]))


def _log_mu(micro: MicroBatch) -> Tensor:
    assert micro.behaviour_logp is not None
    return micro.behaviour_logp


def log_probabilities(groups: list[Group], dtype: torch.dtype = torch.float64) -> Tensor:
    """Table of log p by token id; the prompt's entry is never used."""
    return torch.tensor([math.nan, *(v for group in groups for response in group for v in response.logp)], dtype=dtype)


def one_group(behaviour: list[float] | None = None) -> tuple[torch.Tensor, Responses]:
    """Two responses of a group of 2: log p (-1, -3) with A = +0.5 and (-2,) with A = -0.5; weight 1 / (2 * 1 prompt)."""
    logp = torch.tensor([-1.0, -3.0, -2.0], dtype=torch.float64, requires_grad=True)
    return logp, Responses(
        row=torch.tensor([0, 0, 1]),
        advantage=torch.tensor([0.5, -0.5]),
        weight=torch.tensor([0.5, 0.5]),
        behaviour_logp=None if behaviour is None else torch.tensor(behaviour, dtype=torch.float64),
    )

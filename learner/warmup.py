"""Warm-starts the initial policy on demonstrations, until sampling from it earns some reward.

Stops by the mean probability of a whole reference response on held-out demonstrations: for a task with one right answer
that is exactly the expected reward of sampling at temperature 1, known without sampling.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.megatron.training.trainer import Trainer
from learner.objectives.supervised import Sft
from learner.telemetry.metrics_writer import MetricsWriter
from runtime.errors import MISCONFIGURED, LeewayError


class DemonstrationError(LeewayError):
    """The demonstrations cannot be used; the message names the file, the line and what is wrong."""

    exit_status = MISCONFIGURED


def warm_up(
    config: LearnerConfig,
    trainer: Trainer,
    layout: Layout,
    ranks: Ranks,
    metrics: MetricsWriter | None,
    stopping: Callable[[], bool],
) -> bool:
    """Trains ``trainer``'s policy on the demonstrations up to the target or the step limit. Collective.

    Args:
        metrics: rank 0 only, None elsewhere.
        stopping: asked on rank 0 at every measurement; True ends the warm start early.

    Returns:
        False if it was stopped before the end: the policy is partly trained, and the next start begins again.

    Raises:
        DemonstrationError: the file is missing, malformed or too short.
    """
    warmup = config.warmup
    assert warmup is not None
    found = read_demonstrations(warmup.demonstrations, at_least=warmup.held_out + warmup.batch)
    held_out, pool = found[: warmup.held_out], found[warmup.held_out :]
    held_out_batch = _batch(held_out, layout, ranks)
    sft = Sft()
    order = random.Random(config.seed)  # the same on every rank
    for step in range(1, warmup.max_steps + 1):
        trainer.train_step(_batch(order.sample(pool, warmup.batch), layout, ranks), sft, warmup.lr)
        if step % warmup.every == 0:
            sums = trainer.evaluate(held_out_batch, sft)
            probability = sums["probability_sum"] / sums["probability_count"]
            if metrics is not None:
                nll = sums["nll_sum"] / sums["nll_count"]
                metrics.event("warmup", step=step, nll=nll, target_probability=probability)
            if probability >= warmup.target:
                return True
            if ranks.agree([int(stopping())])[0]:
                return False
    return True


@dataclass(frozen=True)
class Demonstration:
    """A prompt, a response, and what of the response is to be learned.

    Attributes:
        prompt: token ids.
        response: token ids.
        generated: ranges [start, end) of the response that carry loss; the rest is context.
    """

    prompt: list[int]
    response: list[int]
    generated: list[tuple[int, int]]

    @classmethod
    def parse(cls, row: dict[str, Any]) -> Demonstration:
        """Reads a line's object. Raises ValueError, KeyError or TypeError."""
        response = list(map(int, row["response"]))
        generated = [(int(start), int(end)) for start, end in row["generated"]]
        ends = [0, *(bound for one in generated for bound in one), len(response)]
        if ends != sorted(ends) or any(start == end for start, end in generated):
            raise ValueError(f"generated = {generated}: expected ranges within the response, in order")
        return cls(list(map(int, row["prompt"])), response, generated)

    def sequence(self, weight: float) -> Sequence:
        """Makes the sequence for packing; ``weight`` is the factor of its term in the loss."""
        start = len(self.prompt)
        mask = torch.zeros(start + len(self.response), dtype=torch.bool)
        for first, end in self.generated:
            mask[start + first : start + end] = True
        return Sequence(torch.tensor(self.prompt + self.response), mask, advantage=1.0, weight=weight)


def read_demonstrations(path: Path, at_least: int) -> list[Demonstration]:
    """Reads demonstrations, one JSON object {"prompt": [ids], "response": [ids], "generated": [[start, end], ...]} a line.

    Raises:
        DemonstrationError: the file is missing, malformed, or has fewer than ``at_least`` lines.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DemonstrationError(f"warmup.demonstrations = {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Demonstration.parse(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise DemonstrationError(
                f'{path}:{number}: expected {{"prompt": [ids], "response": [ids], "generated": [[start, end], ...]}}: {error}'
            ) from error
    if len(found) < at_least:
        raise DemonstrationError(
            f"{path}: {len(found)} demonstrations; warmup.held_out + warmup.batch needs {at_least}"
        )
    return found


def _batch(demonstrations: list[Demonstration], layout: Layout, ranks: Ranks) -> Batch:
    """Packs demonstrations; all generated tokens have equal weight, and the weights add up to 1."""
    weight = 1.0 / sum(end - start for one in demonstrations for start, end in one.generated)
    return pack([one.sequence(weight) for one in demonstrations], layout, ranks.data_rank)

"""Warm-starts the initial policy on demonstrations, until sampling from it earns some reward.

Stops by the mean probability of a whole reference response on held-out demonstrations: for a task with one right answer
that is exactly the expected reward of sampling at temperature 1, known without sampling.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

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
    pairs = read_demonstrations(warmup.demonstrations, at_least=warmup.held_out + warmup.batch)
    held_out, pool = pairs[: warmup.held_out], pairs[warmup.held_out :]
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


def read_demonstrations(path: Path, at_least: int) -> list[tuple[list[int], list[int]]]:
    """Reads demonstrations, one JSON object {"prompt": [ids], "response": [ids]} a line.

    Returns:
        (prompt ids, response ids) of each line.

    Raises:
        DemonstrationError: the file is missing, malformed, or has fewer than ``at_least`` lines.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DemonstrationError(f"warmup.demonstrations = {path}: {error.strerror}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            pairs.append((list(map(int, row["prompt"])), list(map(int, row["response"]))))
        except (ValueError, KeyError, TypeError) as error:
            raise DemonstrationError(
                f'{path}:{number}: expected {{"prompt": [ids], "response": [ids]}}: {error}'
            ) from error
    if len(pairs) < at_least:
        raise DemonstrationError(
            f"{path}: {len(pairs)} demonstrations; warmup.held_out + warmup.batch needs {at_least}"
        )
    return pairs


def _batch(pairs: list[tuple[list[int], list[int]]], layout: Layout, ranks: Ranks) -> Batch:
    """Packs demonstrations; all response tokens have equal weight, and the weights add up to 1."""
    weight = 1.0 / sum(len(response) for _, response in pairs)
    sequences = [
        Sequence(
            tokens=torch.tensor(prompt + response),
            generated=torch.tensor([False] * len(prompt) + [True] * len(response)),
            advantage=1.0,
            weight=weight,
        )
        for prompt, response in pairs
    ]
    return pack(sequences, layout, ranks.data_rank)

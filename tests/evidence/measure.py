"""Runs one cell from its warm start to its last evaluation, and says what was measured."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rollout.data.tokenizer import Tokenizer
from tests.evidence.backlog import Backlog
from tests.evidence.cell import Cell
from tests.evidence.fleet import Fleet
from tests.evidence.learning import Learning, Row, learner_config, single_rank
from tests.evidence.results import write_whole
from tests.evidence.sampler import Sampler
from tests.evidence.supply import PromptSupply
from tests.evidence.warm_start import warm_started

LAST = 20  # steps whose mean reward is the final one
EVALUATED = 256  # held-out prompts
SAMPLES = 4  # responses to each of them at temperature 1
CURVES = (
    "reward", "entropy", "nll_positive", "nll_negative", "rho", "grad_norm", "drift", "drift_scale", "lr", "update_per_lr",
)  # fmt: skip


def measure(cell: Cell, cache: Path) -> dict[str, Any]:
    """Runs a cell; the process must have run none before.

    Args:
        cell: the run.
        cache: directory where warm-started policies are kept.

    Returns:
        The result, in a form for JSON: ``cell``, single numbers, and ``curves`` with a number or null for every step.
    """
    torch.set_num_threads(1)
    ranks = single_rank(learner_config(cell, cache))
    model = warm_started(cell, cache, ranks)
    busy, began = time.process_time(), time.monotonic()
    tokenizer = Tokenizer(model)
    learning = Learning(cell, learner_config(cell, model), ranks)
    fleet = Fleet(PromptSupply(cell.task, cell.seed, tokenizer), tokenizer, cell.responses, 77 * cell.seed + 5)
    backlog = Backlog(cell, lambda step, count: fleet.generate(step, learning.versions[step].sampler, count).groups)
    rows: list[Row] = []
    for step in range(cell.steps):
        fresh = fleet.generate(step, learning.versions[step].sampler, cell.prompts)
        backlog.put(step, fresh.groups)
        row = learning.step(step, backlog.take(step))
        learning.publish(step + 1)
        rows.append({"reward": fresh.reward, "entropy": fresh.entropy} | row)
    evaluated = _evaluate(cell, tokenizer, learning.versions[cell.steps].sampler)
    spent = {"cpu_s": time.process_time() - busy, "wall_s": time.monotonic() - began}
    return _result(cell, rows) | evaluated | spent


def _evaluate(cell: Cell, tokenizer: Tokenizer, sampler: Sampler) -> dict[str, float]:
    """Mean rewards on prompts that are the same for every run of a task."""
    supply = PromptSupply(cell.task, 10_000, tokenizer, held_out=True)
    questions = supply.take(EVALUATED)
    fleet = Fleet(supply, tokenizer, cell.responses, 99)
    return {
        "greedy": fleet.evaluate(sampler, questions, 1, 0.0),
        "sampled": fleet.evaluate(sampler, questions, SAMPLES, 1.0),
    }


def run_and_write(cell: Cell, cache: Path, path: Path) -> None:
    """Runs a cell at a low priority, and writes its result into ``path``."""
    os.nice(10)
    write_whole(path, json.dumps(measure(cell, cache)))


def _result(cell: Cell, rows: Sequence[Row]) -> dict[str, Any]:
    rewards = [row["reward"] or 0.0 for row in rows]
    return {
        "cell": cell.settings,
        "first": statistics.fmean(rewards[:5]),
        "final": statistics.fmean(rewards[-LAST:]),
        "area": statistics.fmean(rewards),
        "skipped": sum(bool(row.get("skipped")) for row in rows),
        "curves": {name: [row.get(name) for row in rows] for name in CURVES},
    }

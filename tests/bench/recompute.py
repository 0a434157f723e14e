"""A step that recomputes old log-probabilities against one that needs none: `python -m tests.bench.recompute [ROUNDS]`.

ASymPO, and GRPO with log mu recomputed first, on the same trainer, tokens and model; one version in the batch, held in host
memory, which is the least that recomputing can cost. CPU, fp32, one process. The two take turns, so that what else the
machine does hits them alike; the figure is the median of the rounds' ratios. By arithmetic it is 3/4: forward and backward
pass against those and another forward pass.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.behaviour.recompute import Behaviour
from learner.behaviour.token_scorer import TokenScorer
from learner.behaviour.weight_cache import ReadWeights
from learner.megatron.model.build import load_policy
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import Trainer
from learner.objectives import get
from tests.bench import subject


def steps(directory: Path) -> dict[str, Callable[[], float]]:
    """Makes a step function for each objective; it returns the gradient's norm."""
    config = subject.config(directory)
    ranks = subject.alone(config)
    policy = load_policy(directory, ranks, config)
    trainer = Trainer(policy, config.optimizer, ranks)
    layout = Layout(max_tokens=config.micro_batch_tokens)
    marked = [replace(one, version=torch.zeros_like(one.tokens)) for one in subject.sequences()]
    batch = pack(marked, layout)

    def step(name: str) -> Callable[[], float]:
        objective = get(config.objective.model_copy(update={"name": name, "rho_max": None}))
        scorer = Scorer(policy, ranks, "float32")
        behaviour = Behaviour(config, objective, TokenScorer(scorer, ranks, layout, config.seed), ranks)
        if behaviour.caches:
            behaviour.cache(0, ReadWeights(scorer.snapshot()))

        def run() -> float:
            filled, _ = behaviour.recompute(batch, 0, {0: 0})
            assert filled is not None
            return trainer.train_step(filled, objective, subject.LR).grad_norm

        return run

    return {name: step(name) for name in ("asympo", "grpo")}


def main(rounds: int = 7) -> None:
    with tempfile.TemporaryDirectory() as directory:
        size = subject.write(Path(directory))
        ways = steps(Path(directory))
        assert all(step() > 0 for step in ways.values())
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, step in ways.items():
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
    tokens = sum(len(one.tokens) for one in subject.sequences())
    print(f"{size:.1f}M parameters, {tokens} tokens a step, {rounds} rounds, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        print(f"{name:8} {statistics.median(times):6.2f} s")
    ratios = sorted(plain / filled for plain, filled in zip(*seconds.values(), strict=True))
    middle = statistics.median(ratios)
    print(f"a step without recomputation takes {middle:.2f} of one with it ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

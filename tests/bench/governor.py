"""What averaged versions and the governor of drift cost and see: `python -m tests.bench.governor [SHAPE] [DTYPE] [LR]`.

Steps of a packed batch as in tests.bench.gpu, each on a batch of its own, with the average updated after each and a probe of
an eighth of the responses every fourth step. Prints the share of a step that each takes, the movement that the probe finds,
the movement that it finds where nothing moved (the noise of the data type, since the probe packs its responses anew), and the
share of published bf16 values that change from one version to the next, of the weights and of their average.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout
from learner.batch.types import Batch
from learner.behaviour.drift_probe import DriftProbe
from learner.behaviour.token_scorer import TokenScorer
from learner.config import LearnerConfig, ObjectiveConfig
from learner.config.control import LrControlConfig
from learner.megatron.model.build import load_policy
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import Trainer
from learner.megatron.training.weight_average import WeightAverage
from learner.objectives import get
from learner.process import cuda_environment
from tests.bench.gpu import SHAPES, largest_that_fits
from tests.evidence.learning import single_rank

WARM, STEPS, DECAY = 2, 18, 0.9
Result = TypeVar("Result")


def _config(directory: Path, dtype: str) -> LearnerConfig:
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    given = {"model": str(directory), "queue": {"url": "redis://unused", "run": "bench"}, "dtype": dtype}
    return LearnerConfig.parse(given | unused, source="bench")


class Bench:
    """A trainer of one rank, its average and its probe."""

    def __init__(self, name: str, dtype: str, device: torch.device) -> None:
        self.shape, self.device = SHAPES[name], device
        with tempfile.TemporaryDirectory() as directory:
            self.shape.write(Path(directory), device)
            config = _config(Path(directory), dtype)
            ranks = single_rank(config)
            self.policy = load_policy(Path(directory), ranks, config)
        self.trainer = Trainer(self.policy, config.optimizer, ranks)
        self.average = WeightAverage(self.trainer, DECAY)
        self.tokens = TokenScorer(Scorer(self.policy, ranks, "bfloat16", self.average), ranks, Layout(), seed=0)
        self.probe = DriftProbe(LrControlConfig(mode="drift"), self.tokens, ranks)
        self.objective = get(ObjectiveConfig())

    def published(self) -> dict[str, list[Tensor]]:
        """What would be published: the weights, and their average, each [n] bf16."""
        averages = self.average.weights(torch.bfloat16)
        parameters = [parameter for model in self.policy.models for parameter in model.parameters()]
        values = {
            "weights": [one.detach() for one in parameters],
            "their average": [averages[one] for one in parameters],
        }
        return {name: [one.to(torch.bfloat16, copy=True) for one in tensors] for name, tensors in values.items()}

    def noise(self, batch: Batch) -> tuple[float, float]:
        """Mean |change of log p| where nothing has changed: of a sample packed anew, and of the whole batch as it was."""
        before = torch.cat(list(self.trainer.gradient(batch, self.objective).logp))
        sample = self.tokens.sample(batch, 1, batch.sequences / 8)
        found = []
        for chosen in (sample, torch.ones_like(sample)):
            after = self.tokens.logp(batch, chosen, None)
            place = chosen.to(after.device)
            found.append((after - before).abs()[place].mean().item())
        return found[0], found[1]

    def timed(self, action: Callable[[], Result]) -> tuple[float, Result]:
        """Seconds of ``action``, all of the device's work included, and what it returned."""
        began = time.perf_counter()
        result = action()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began, result

    def step(self, number: int, rate: float) -> tuple[list[float], float | None]:
        """Makes a step; returns the seconds of training, average and probe, and the movement if one was measured."""
        batch = self.shape.batch(number)
        trained, stats = self.timed(lambda: self.trainer.train_step(batch, self.objective, rate))
        averaged, _ = self.timed(self.average.update)
        probed, movement = self.timed(lambda: self.probe.after_step(number + 1, batch, stats, rate))
        return [trained, averaged, probed], movement.drift if movement is not None else None


def main(name: str = "", dtype: str = "bfloat16", lr: str = "1e-6") -> None:
    """Measures and prints. ``name``: one of tests.bench.gpu's SHAPES; ``lr``: the constant learning rate."""
    cuda_environment.prepare(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    bench, rate = Bench(name or largest_that_fits(device), dtype, device), float(lr)
    seconds: list[list[float]] = []
    drifts: list[float] = []
    changed: dict[str, list[float]] = {}
    last = bench.published()
    for number in range(WARM + STEPS):
        spent, drift = bench.step(number, rate)
        seconds.append(spent)
        drifts += [drift] if drift is not None else []
        if number + 2 >= WARM + STEPS - 4:
            now = bench.published()
            for kind, tensors in now.items():
                moved = sum(int((a != b).sum()) for a, b in zip(last[kind], tensors, strict=True))
                changed.setdefault(kind, []).append(moved / sum(one.numel() for one in tensors))
            last = now
    noise = bench.noise(bench.shape.batch(99))
    second = statistics.median(trained for trained, _, _ in seconds[WARM:])
    print(f"{name}, {device}, {dtype}, learning rate {rate:g}: {second:.3f} s a step")
    for what, column in (("the average", 1), ("the probe", 2)):
        mean = statistics.fmean(row[column] for row in seconds[4:])  # the first measurement compiles kernels
        print(f"{what:12} {mean * 1e3:8.2f} ms a step, {mean / second:6.2%} (goal: below 3% both together)")
    print(f"movement over 4 steps: {', '.join(f'{drift:.2e}' for drift in drifts)} nats a token")
    print(f"where nothing moved: {noise[0]:.2e} packed anew, {noise[1]:.2e} packed as it was")
    for kind, shares in changed.items():
        print(f"bf16 values of {kind} that change in a step: {statistics.fmean(shares[1:]):.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:])

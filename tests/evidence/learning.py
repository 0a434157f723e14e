"""The product's own learner as one process: trainer, objective, average, governor and probe, composed as in learner.run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import HashStore  # torch.distributed exports it without declaring it

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner import objectives
from learner.batch.packing import Layout, pack
from learner.batch.sequences import to_sequences
from learner.batch.statistics import group_statistics
from learner.batch.subset import flatten, with_field
from learner.batch.types import Batch
from learner.behaviour.drift_probe import DriftProbe
from learner.behaviour.token_scorer import TokenScorer
from learner.behaviour.weight_cache import LocalWeights
from learner.config import LearnerConfig
from learner.control.controller import LearningRateController
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Export, Exporter
from learner.megatron.parallel import Ranks, start
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import StepStats, Trainer
from learner.megatron.training.weight_average import WeightAverage
from leeway.v1 import rollout_pb2 as pb
from tests.evidence.cell import SHAPES, Cell
from tests.evidence.sampler import Sampler

Row = dict[str, float | None]

_LIMIT_S = 600.0  # of a collective, of which every process is the only member


@dataclass(frozen=True)
class Version:
    """Published weights: what fleets sample from, and what log mu is recomputed with."""

    sampler: Sampler
    local: LocalWeights
    export: Export


def single_rank(config: LearnerConfig) -> Ranks:
    """Makes this process the only rank of its world."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    return start(config.parallel, config.seed, _LIMIT_S, store=HashStore())


def learner_config(cell: Cell, model: Path, more: dict[str, Any] | None = None) -> LearnerConfig:
    """Settings of a learner that runs ``cell`` from the weights in ``model``."""
    unused = str(model / "unused")
    values = {
        "model": str(model),
        "queue": {"url": "redis://unused", "run": "evidence"},
        "checkpoint": {"dir": unused},
        "metrics_dir": unused,
        "publish": {"dir": unused, "average": cell.average},
        "steps": cell.steps,
        "seed": cell.seed,
        "dtype": cell.dtype,
        "groups_per_step": cell.prompts,
        "max_staleness": cell.oldest,
        "objective": {"name": cell.objective, **cell.constants},
        "optimizer": {"lr": cell.lr, "betas": list(cell.betas), "clip_grad": 1.0},
        "lr_control": {"mode": "drift" if cell.governed else "off", "drift_target": cell.drift_target},
        "diagnostics": {"update_cosine": False},
    }
    return LearnerConfig.parse(values | (more or {}), source=str(cell))


class Learning:
    """Trains one cell, and publishes a version after every step.

    Attributes:
        scorer: runs forward passes with the weights of a version.
        versions: what is published and may still be needed, by the number of steps that were done.
    """

    def __init__(self, cell: Cell, config: LearnerConfig, ranks: Ranks) -> None:
        self._cell = cell
        self._config = config
        policy = load_policy(config.model, ranks, config)
        self._trainer = Trainer(policy, config.optimizer, ranks, config.diagnostics)
        self._average = WeightAverage(self._trainer, cell.average) if cell.average else None
        dtype = config.publish.weights_dtype
        averages = self._average.weights if self._average is not None else None
        self._exporter = Exporter(policy, ranks, dtype, averages)
        self._trainer.before_update(self._exporter.protect)
        layout = Layout()
        self._layout = layout
        self.scorer = Scorer(policy, ranks, dtype, self._average)
        self._tokens = TokenScorer(self.scorer, ranks, layout, config.seed)
        self._probe = DriftProbe(config.lr_control, self._tokens, ranks)
        self._rates = LearningRateController(config)
        self._objective = objectives.get(config.objective)
        self.versions: dict[int, Version] = {}
        self.publish(0)

    def publish(self, step: int) -> None:
        """Publishes the weights, or their average, after ``step`` steps; versions that nobody can need are dropped."""
        export = self._exporter.begin(whole=True)
        local = [tensor.clone() for tensor in export.weights.tensors()]
        sampler = Sampler(dict(export.shard()), SHAPES[self._cell.model])
        export.release()
        self.versions[step] = Version(sampler, local, export)
        for old in [old for old in self.versions if old < step - self._cell.oldest]:
            del self.versions[old]

    def step(self, step: int, groups: Sequence[pb.Group]) -> Row:
        """Makes step ``step`` (0-based) with groups of versions that are held; returns what was measured of it."""
        used = {span.version for group in groups for response in group.responses for span in response.spans}
        statistics = group_statistics(groups, {version: step - version for version in used}, self._config.max_staleness)
        sequences = to_sequences(groups, self._objective.weighting)
        batch = pack(sequences, self._layout) if sequences else None
        decision = self._rates.decide(step, statistics)
        stats = None
        if batch is not None:
            if self._objective.needs_behaviour:
                batch = with_field(batch, "behaviour_logp", self._log_mu(batch))
            stats = self._trainer.train_step(batch, self._objective, decision.rate)
            if not stats.skipped:
                self._objective.observe(stats.metrics)
                self._rates.updated(decision)
        if self._average is not None:
            self._average.update()
        movement = self._probe.after_step(step + 1, batch, stats, decision.rate)
        if movement is not None:
            self._rates.observe_drift(movement)
        row = _measured(stats) | {"lr": decision.rate}
        if stats is not None and stats.update is not None:
            row["update_per_lr"] = stats.update.norm / decision.rate
        if movement is not None:
            row["drift"] = movement.drift
            row["drift_scale"] = movement.drift / (movement.steps**0.5 * movement.rate)
        return row

    def _log_mu(self, batch: Batch) -> torch.Tensor:
        """Recomputes log mu of every loss token, with the weights of the version that generated it: [L] float32."""
        versions = flatten(batch, "version")
        scored = [
            self._tokens.logp(batch, versions == version, self.versions[version].local)
            for version in versions.unique().tolist()
        ]
        return torch.stack(scored).sum(0)


def _measured(stats: StepStats | None) -> Row:
    if stats is None:
        return {"skipped": 1.0}
    sums = stats.metrics
    means = {
        name: sums[f"{name}_sum"] / sums[f"{name}_count"] if sums[f"{name}_count"] else None
        for name in ("nll_positive", "nll_negative", "rho")
    }
    return {**means, "grad_norm": stats.grad_norm, "skipped": float(stats.skipped is not None)}

"""Measures how far the policy moves: the log-probabilities of a sample of tokens before a few steps, and after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.types import Batch
from learner.behaviour.token_scorer import TokenScorer
from learner.config.control import LrControlConfig
from learner.control.drift_governor import Movement
from learner.megatron.parallel import Ranks
from learner.megatron.training.trainer import StepStats


@dataclass
class _Window:
    """A measurement under way; the log-probabilities are [n] float32 on the last stage, empty elsewhere."""

    batch: Batch
    chosen: Tensor  # [L of all micro-batches] bool, n of them true
    before: Tensor
    steps: int = 0
    rates: float = 0.0


class DriftProbe:
    """Measures again and again, each time on a sample of the batch that the first step of the measurement trained.

    The log-probabilities before are those of that step's own forward pass; after ``drift_every`` steps the sample is scored
    once, without a gradient. Between a checkpoint and the end of a measurement nothing is kept: a resumed run begins anew.

    Args:
        config: steps of a measurement, and the share of responses in it.
        tokens: scores the sample.
        ranks: the parallel layout, and this rank's indices in it.
    """

    def __init__(self, config: LrControlConfig, tokens: TokenScorer, ranks: Ranks) -> None:
        self._config = config
        self._tokens = tokens
        self._ranks = ranks
        self._window: _Window | None = None

    def configure(self, config: LrControlConfig) -> None:
        """Takes other settings between two steps."""
        self._config = config

    def after_step(self, step: int, batch: Batch | None, stats: StepStats | None, rate: float) -> Movement | None:
        """Counts a step, and begins or ends a measurement with it. Collective.

        Args:
            step: number of the step.
            batch: what this data rank trained; None if nothing was trained.
            stats: results of training; a step that changed no weights is not counted.
            rate: the step's learning rate.

        Returns:
            The measurement that this step ends; None in other steps, and where there is nothing to measure.
        """
        if batch is None or stats is None or stats.skipped is not None:
            return None
        window = self._window = self._window or self._begin(step, batch, stats)
        window.steps += 1
        window.rates += rate
        if window.steps < self._config.drift_every:
            return None
        self._window = None
        drift = self._distance(window) if window.rates > 0 else None
        return None if drift is None else Movement(drift, window.steps, window.rates / window.steps)

    def _begin(self, step: int, batch: Batch, stats: StepStats) -> _Window:
        chosen = self._tokens.sample(batch, step, self._config.drift_share * batch.sequences)
        before = torch.cat(list(stats.logp)) if stats.logp else torch.zeros(0, device=self._ranks.device)
        return _Window(batch, chosen, before[chosen.to(before.device)] if len(before) else before)

    def _distance(self, window: _Window) -> float | None:
        """Mean |change of log p| over the sampled tokens of all ranks; None if there is none. Collective."""
        self._tokens.scorer.prepare()
        after = self._tokens.logp(window.batch, window.chosen, None)
        sums = torch.zeros(2, dtype=torch.float64, device=self._ranks.device)
        # Tensor- and context-parallel ranks of the last stage have equal numbers: one of them counts.
        if self._ranks.is_last_stage and self._ranks.tensor_rank == self._ranks.context_rank == 0:
            moved = after[window.chosen.to(after.device)] - window.before
            sums[0], sums[1] = moved.double().abs().sum(), len(moved)
        dist.all_reduce(sums)
        total, count = sums.tolist()
        return total / count if count else None

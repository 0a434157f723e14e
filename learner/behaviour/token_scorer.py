"""Log-probabilities of some of a batch's loss tokens, under any weights, wherever the data ranks have some of them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import torch
from torch import Tensor

from learner.batch.packing import Layout
from learner.batch.subset import padded_to, select_tokens
from learner.batch.types import Batch
from learner.behaviour.weight_cache import LocalWeights
from learner.megatron.parallel import Ranks
from learner.megatron.training.scorer import Scorer


class TokenScorer:
    """Chooses loss tokens of a data rank's batch and scores them. Every rank makes one.

    Args:
        scorer: runs forward passes with given weights.
        ranks: the parallel layout, and this rank's indices in it.
        layout: layout that the training batches are packed with.
        seed: of the run.
    """

    def __init__(self, scorer: Scorer, ranks: Ranks, layout: Layout, seed: int) -> None:
        self.scorer = scorer
        self._ranks = ranks
        self._layout = replace(layout, data_ranks=1)  # each data rank scores what it trains
        self._seed = seed
        # Tokens of one data rank go to experts on another, so all of them must run the forward pass, or none.
        self.together = ranks.expert_size > 1

    def logp(self, batch: Batch, chosen: Tensor, weights: LocalWeights | None) -> Tensor:
        """Computes log-probabilities of the chosen loss tokens, 0 elsewhere: [L of all micro-batches] float32.

        Collective as ``Scorer.score`` is. Only the last pipeline stage gets true ones.

        Args:
            batch: the batch of this data rank.
            chosen: [L of all micro-batches] bool.
            weights: None for the current ones, which ``Scorer.prepare`` must have completed.
        """
        found = torch.zeros(len(chosen), device=self._ranks.device)
        selected = select_tokens(batch, chosen, self._layout)
        if self.together:
            most = self._ranks.largest(len(selected.batch.micro_batches) if selected is not None else 0)
            selected = padded_to(selected, most, self._layout) if most else None
        if selected is not None:
            for values, origin in zip(self.scorer.score(selected.batch, weights), selected.origin, strict=False):
                found[origin.to(found.device)] = values
        return found

    def sample(self, batch: Batch, step: int, responses: float) -> Tensor:
        """Draws responses of a step; returns which loss tokens are of those: [L of all micro-batches] bool.

        Every rank draws the same ones of all data ranks' responses, so that they do not depend on the layout.

        Args:
            batch: the batch of this data rank.
            step: number of the step, which with the run's seed decides the draw.
            responses: how many of all data ranks together, rounded up; at least one, if there are any.
        """
        count = min(max(1, math.ceil(responses)), batch.sequences)
        taken = set(random.Random(f"{self._seed}/{step}").sample(range(batch.sequences), count))
        flags = [torch.zeros(0, dtype=torch.bool)]
        for micro_batch, members in zip(batch.micro_batches, batch.members, strict=True):
            of_row = torch.tensor([member in taken for member in members], dtype=torch.bool)
            flags.append(of_row[micro_batch.loss_row])
        return torch.cat(flags)

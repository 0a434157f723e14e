"""Log-probabilities of the responses' tokens under the versions that generated them, and under a frozen reference.

No log-probability comes over the wire: a group's spans say which version generated which token, and the learner published
those versions itself. Each rank holds its own part of them and lends them to its layers, so that log mu comes from the same
pipeline, kernels and rounding as log pi; one forward pass per version, over the sequences that have tokens of it.

The truth is what lies in the publication directory, rounded to publish.dtype; memory is a cache of it. A group of a version
that is not there any more, or not what was published, is never trained on: ``usable`` tells the queue, which counts it as
expired, as it does with one that is too stale.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog
import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.packing import Layout
from learner.batch.subset import flatten, lengthened, spread, subset
from learner.batch.types import Batch
from learner.behaviour.drift import bucket_count, drift_row, drift_sums
from learner.behaviour.weight_cache import LocalWeights, WeightCache
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.megatron.training.scorer import Scorer
from learner.objectives import Objective
from learner.publish.catalog import CatalogError, versions_on_disk
from learner.publish.verified import VerifiedVersions
from runtime.settings import SettingsError

_UNDER_WAY = 4  # steps that a batch may be taken, and a version retained, ahead of or behind the step trained now


class Behaviour:
    """What other weights than the current ones say about a batch. Every rank makes one.

    Args:
        layout: of the training batches.
    """

    def __init__(
        self, config: LearnerConfig, objective: Objective, scorer: Scorer, ranks: Ranks, layout: Layout
    ) -> None:
        self._config = config
        self._objective = objective
        self._scorer = scorer
        self._ranks = ranks
        self._layout = replace(layout, data_ranks=1)  # each scores what it trains
        # Tokens of one data rank go to experts on another: all score, or none does.
        self._together = ranks.expert_size > 1
        self._published = VerifiedVersions(config.publish.dir)
        self._cache = WeightCache(
            config.behaviour.cache_bytes, lambda version: scorer.read(self._published.open(version))
        )
        self._wanted = objective.needs_behaviour or config.behaviour.drift_every > 0
        self._reference: LocalWeights | None = None
        self._reference_version = -1
        self._unusable: set[int] = set()

    def hold(self, version: int) -> None:
        """Keeps the current weights, which are being published under that number."""
        if self._wanted:
            self._cache.put(version, self._scorer.snapshot())

    def freeze(self, version: int, step: int) -> None:
        """Takes the reference: the run's first version, which is the current weights before the first step.

        Raises:
            SettingsError: it is not in the publication directory any more.
        """
        self._reference_version = version
        if not self._objective.needs_reference:
            return
        try:
            self._reference = self._scorer.snapshot() if step == 0 else self._scorer.read(self._published.open(version))
        except CatalogError as error:
            raise SettingsError(
                f"objective.kl_coef = {self._config.objective.kl_coef}: version {version}, the reference, cannot be read "
                f"({error}): bring it back, or set kl_coef to 0"
            ) from error

    @property
    def reference_version(self) -> int:
        """What a checkpoint must keep."""
        return self._reference_version

    def usable(self, version: int) -> bool:
        """Whether log mu of a version's tokens can be had; asked on rank 0 before a group is handed out."""
        if version in self._unusable:
            return False
        problem = None if self._published.exists(version) else "it is not in publish.dir any more"
        if problem is None and version not in self._cache:
            problem = self._published.problem(version)
        if problem is not None:
            self._unusable.add(version)
            structlog.get_logger().error(
                "a version cannot be recomputed: its tokens are left out", version=version, reason=problem
            )
        return problem is None

    def needed(self, fresh: Callable[[Iterable[int], int], set[int]]) -> set[int]:
        """Versions that must stay on disk. ``fresh``: those of some versions that are at most so many steps stale."""
        kept: set[int] = set()
        if self._wanted:
            kept = fresh(versions_on_disk(self._config.publish.dir), self._config.max_staleness + _UNDER_WAY)
        return kept | ({self._reference_version} if self._objective.needs_reference else set())

    def fill(self, batch: Batch | None, step: int, staleness: Mapping[int, int]) -> tuple[Batch | None, dict[str, Any]]:
        """The batch with what the objective needs, and numbers for the step's row. Collective.

        Only the last stage, where the objective is called, has the true log-probabilities.

        Args:
            batch: of this data rank; None where nothing is trained.
            step: optimizer steps done.
            staleness: version -> optimizer steps, of all versions in the step's groups.
        """
        if batch is None:
            return None, {}
        started, misses = time.monotonic(), self._cache.misses
        everything = torch.ones(len(flatten(batch, "loss_row")), dtype=torch.bool)
        numbers: dict[str, Any] = {}
        log_mu = self._log_mu(batch, everything) if self._objective.needs_behaviour else None
        every = self._config.behaviour.drift_every
        if every and step % every == 0:
            numbers = self._drift(batch, step, staleness, log_mu)
        if log_mu is not None:
            batch = spread(batch, "behaviour_logp", log_mu)
        if self._objective.needs_reference:
            batch = spread(batch, "reference_logp", self._logp(batch, everything, self._reference))
        if self._wanted or self._objective.needs_reference:
            numbers["recompute_s"] = time.monotonic() - started
            numbers["versions_read"] = self._cache.misses - misses
        return batch, numbers

    def _log_mu(self, batch: Batch, chosen: Tensor) -> Tensor:
        """log mu of the chosen loss tokens, 0 elsewhere: [L of all micro-batches] float32, on the last stage."""
        versions = flatten(batch, "version")
        total = torch.zeros(len(versions), device=self._ranks.device)
        wanted = versions[chosen].unique().tolist()
        for version in self._ranks.union(wanted) if self._together else wanted:
            total += self._logp(batch, chosen & (versions == version), self._cache.get(version))
        return total

    def _logp(self, batch: Batch, chosen: Tensor, weights: LocalWeights | None) -> Tensor:
        """Log-probabilities of the chosen loss tokens under some weights, 0 elsewhere."""
        found = torch.zeros(len(chosen), device=self._ranks.device)
        piece = subset(batch, chosen, self._layout)
        if self._together:
            most = self._ranks.largest(len(piece.batch.micro_batches) if piece is not None else 0)
            piece = lengthened(piece, most, self._layout) if most else None
        if piece is not None:
            for values, origin in zip(self._scorer.score(piece.batch, weights), piece.origin, strict=False):
                found[origin.to(found.device)] = values
        return found

    def _drift(self, batch: Batch, step: int, staleness: Mapping[int, int], log_mu: Tensor | None) -> dict[str, Any]:
        """What ``drift_row`` says of a sample. Tokens of versions that cannot be read are left out.

        Args:
            log_mu: [L of all micro-batches] where it is known already.
        """
        known = sorted(staleness)
        readable = self._ranks.agree([int(self._ranks.rank > 0 or self.usable(version)) for version in known])
        versions = flatten(batch, "version")
        among = torch.tensor([version for version, there in zip(known, readable, strict=True) if there])
        chosen = self._sample(batch, step) & torch.isin(versions, among)
        log_pi = self._logp(batch, chosen, None)
        log_mu = self._log_mu(batch, chosen) if log_mu is None else log_mu
        ages = torch.tensor([staleness[version] for version in versions[chosen].tolist()], dtype=torch.int64)
        buckets = bucket_count(self._config.max_staleness)
        sums = drift_sums(log_pi.cpu()[chosen], log_mu.cpu()[chosen], ages, buckets).to(self._ranks.device)
        if not self._ranks.is_last_stage or self._ranks.tensor_rank or self._ranks.context_rank:
            sums.zero_()
        dist.all_reduce(sums)
        return drift_row(sums)

    def _sample(self, batch: Batch, step: int) -> Tensor:
        """The loss tokens of some responses of this data rank: [L of all micro-batches] bool."""
        wanted = math.ceil(self._config.behaviour.drift_responses / self._ranks.data_size)
        rows = [(index, row) for index, one in enumerate(batch.micro_batches) for row in one.loss_row.unique().tolist()]
        draw = random.Random(f"{self._config.seed}/{step}/{self._ranks.data_rank}")  # the same on a data rank's ranks
        taken = set(draw.sample(rows, min(wanted, len(rows))))
        flags = [
            torch.tensor([(index, row) in taken for row in one.loss_row.tolist()], dtype=torch.bool)
            for index, one in enumerate(batch.micro_batches)
        ]
        return torch.cat(flags)

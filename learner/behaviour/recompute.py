"""Recomputes log-probabilities of the responses' tokens under the versions that generated them, and under a reference.

No log-probability comes over the wire: a group's spans say which version generated which token, and the learner published
those versions itself. Each rank puts its shard of a version's weights into its own layers for a forward pass, so that log mu
comes from the same pipeline, kernels and rounding as log pi. There is one forward pass per version, over the sequences that
have tokens of it.

The versions in the publication directory, rounded to publish.dtype, are authoritative; host memory caches them. A group of a
version that is no longer there, or is not what was published, is never trained on: ``usable`` tells the queue, which counts
such a group as expired, as if it were too stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.subset import flatten, with_field
from learner.batch.types import Batch
from learner.behaviour.drift import bucket_count, drift_row, drift_sums
from learner.behaviour.step_survey import survey_step
from learner.behaviour.token_scorer import TokenScorer
from learner.behaviour.weight_cache import HeldWeights, LocalWeights, WeightCache
from learner.config import LearnerConfig
from learner.config.behaviour import cache_limit, cache_room, cached_versions
from learner.megatron.parallel import Ranks
from learner.objectives import Objective
from learner.publish.catalog import CatalogError
from learner.publish.verified import VerifiedVersions
from runtime.memory import usable_memory
from runtime.settings import SettingsError
from runtime.version_format.names import versions_on_disk

_SLACK = 4  # optimizer steps that versions are kept beyond max_staleness at least
_AHEAD = 1  # step by which retention may be ahead of the groups whose version is still read


class Behaviour:
    """Recomputes a batch's log-probabilities with other weights than the current ones. Every rank makes one.

    Args:
        config: settings of the learner.
        objective: objective of the run; it says which log-probabilities it needs.
        tokens: scores tokens of a batch with given weights.
        ranks: the parallel layout, and this rank's indices in it.
    """

    def __init__(self, config: LearnerConfig, objective: Objective, tokens: TokenScorer, ranks: Ranks) -> None:
        self._config = config
        self._objective = objective
        self._tokens = tokens
        self._scorer = scorer = tokens.scorer
        self._ranks = ranks
        self._published = VerifiedVersions(config.publish.dir, config.model)
        self._wants_log_mu = objective.needs_behaviour or config.behaviour.drift_every > 0
        limit = self._cache_limit(scorer.version_bytes)
        self._cache = WeightCache(limit, lambda version: scorer.read(self._published.open(version)))
        self._caches = self._wants_log_mu and scorer.version_bytes <= limit
        self._reference: LocalWeights | None = None
        self._reference_version = -1
        self._unusable: set[int] = set()
        self._failing: set[int] = set()  # versions that the disk did not give, said once

    def _cache_limit(self, version_bytes: int) -> int:
        """Bytes that this rank caches; a log line says so where not all versions in use will fit."""
        wanted = cached_versions(self._config.max_staleness)
        room = cache_room(usable_memory(), self._ranks.local_size)
        limit = cache_limit(self._config.behaviour.cache_bytes, self._config.max_staleness, version_bytes, room)
        if self._wants_log_mu and self._ranks.rank == 0 and limit < wanted * version_bytes:
            structlog.get_logger().warning(
                "behaviour.cache_bytes does not hold every version in use: the others are read from disk",
                cache_bytes=limit,
                version_bytes=version_bytes,
                versions=wanted,
            )
        return limit

    def configure(self, config: LearnerConfig, objective: Objective) -> None:
        """Takes other constants of the objective between two steps; what is recomputed for it must stay what it is."""
        self._config, self._objective = config, objective

    @property
    def caches(self) -> bool:
        """Whether the weights that are published are to be cached: log mu may be needed, and there is room."""
        return self._caches

    def cache(self, version: int, weights: HeldWeights) -> None:
        """Caches this rank's shard of the weights that are being published as ``version``; it is a user of them already."""
        self._cache.put(version, weights)

    def freeze_reference(self, version: int, step: int) -> None:
        """Takes ``version`` as the frozen reference, and loads its weights if the objective needs them.

        Args:
            version: the run's first version.
            step: optimizer steps done; at 0 the current weights are those of the first version.

        Raises:
            SettingsError: the version cannot be read from the publication directory.
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
        """Number of the version that is the frozen reference, for the checkpoint."""
        return self._reference_version

    def usable(self, version: int) -> bool:
        """Whether log mu of a version's tokens can be recomputed; asked on rank 0 before a group is taken from the queue."""
        if version in self._unusable:
            return False
        problem = None if self._published.exists(version) else "it is no longer in publish.dir"
        if problem is None and version not in self._cache:
            problem = self._published.problem(version)
        if problem is None:
            self._failing.discard(version)
            return True
        passes = self._published.may_pass(version)
        if not passes:
            self._unusable.add(version)
        if not passes or version not in self._failing:
            structlog.get_logger().error(
                "a version cannot be recomputed: its tokens are left out",
                version=version,
                reason=problem,
                read_again=passes,
            )
        self._failing.add(version)
        return False

    def needed(self, fresh: Callable[[Iterable[int], int], set[int]]) -> set[int]:
        """Versions that must stay on disk for log mu and for the reference.

        Args:
            fresh: given versions and a number of steps, returns the versions that are at most so many steps stale.
        """
        kept: set[int] = set()
        if self._wants_log_mu:
            bound = self._config.max_staleness + _SLACK
            if self._objective.needs_behaviour:  # for the drift, tokens of versions that have gone are left out
                bound = max(bound, self._config.expiry_bound + _AHEAD)
            kept = fresh(versions_on_disk(self._config.publish.dir), bound)
        return kept | ({self._reference_version} if self._objective.needs_reference else set())

    def recompute(
        self, batch: Batch | None, step: int, staleness: Mapping[int, int]
    ) -> tuple[Batch | None, dict[str, Any]]:
        """Adds the log-probabilities that the objective needs to a batch; measures the drift when it is due. Collective.

        Only the last pipeline stage, where the objective is called, gets true log-probabilities.

        Args:
            batch: the batch of this data rank; None if the step trains nothing.
            step: optimizer steps done.
            staleness: staleness in optimizer steps of every version in the step's groups.

        Returns:
            The batch with ``behaviour_logp`` and ``reference_logp`` as far as they are needed, and numbers for the step's
            row.
        """
        if batch is None:
            return None, {}
        started, misses = time.monotonic(), self._cache.misses
        if self._wants_log_mu or self._objective.needs_reference:
            self._scorer.prepare()  # here, where all ranks are: some of them may score nothing
        everything = torch.ones(len(flatten(batch, "loss_row")), dtype=torch.bool)
        numbers: dict[str, Any] = {}
        log_mu = self._log_mu(batch, everything) if self._objective.needs_behaviour else None
        every = self._config.behaviour.drift_every
        if every and step % every == 0:
            numbers = self._drift(batch, step, staleness, log_mu)
        if log_mu is not None:
            if self._objective.needs_survey:
                log_pi = self._tokens.logp(batch, everything, None)
                survey_step(self._objective, self._ranks, batch, log_pi - log_mu)
            batch = with_field(batch, "behaviour_logp", log_mu)
        if self._objective.needs_reference:
            batch = with_field(batch, "reference_logp", self._tokens.logp(batch, everything, self._reference))
        if self._wants_log_mu or self._objective.needs_reference:
            numbers["recompute_s"] = time.monotonic() - started
            numbers["versions_read"] = self._cache.misses - misses
        return batch, numbers

    def _log_mu(self, batch: Batch, chosen: Tensor) -> Tensor:
        """Recomputes log mu of the chosen loss tokens, 0 elsewhere: [L of all micro-batches] float32, on the last stage."""
        versions = flatten(batch, "version")
        total = torch.zeros(len(versions), device=self._ranks.device)
        wanted = versions[chosen].unique().tolist()
        for version in self._ranks.union(wanted) if self._tokens.together else wanted:
            total += self._tokens.logp(batch, chosen & (versions == version), self._cache.get(version))
        return total

    def _drift(self, batch: Batch, step: int, staleness: Mapping[int, int], log_mu: Tensor | None) -> dict[str, Any]:
        """Measures the drift on a sample of responses; returns ``drift_row``. Tokens of unreadable versions are left out.

        Args:
            log_mu: [L of all micro-batches] float32 if it has been recomputed already.
        """
        known = sorted(staleness)
        flags = self._ranks.agree([int(self._ranks.rank > 0 or self.usable(version)) for version in known])
        versions = flatten(batch, "version")
        readable = torch.tensor([version for version, flag in zip(known, flags, strict=True) if flag])
        chosen = self._tokens.sample(batch, step, self._config.behaviour.drift_responses) & torch.isin(
            versions, readable
        )
        log_pi = self._tokens.logp(batch, chosen, None)
        log_mu = self._log_mu(batch, chosen) if log_mu is None else log_mu
        ages = torch.tensor([staleness[version] for version in versions[chosen].tolist()], dtype=torch.int64)
        buckets = bucket_count(self._config.expiry_bound)
        sums = drift_sums(log_pi.cpu()[chosen], log_mu.cpu()[chosen], ages, buckets).to(self._ranks.device)
        if not self._ranks.is_last_stage or self._ranks.tensor_rank or self._ranks.context_rank:
            sums.zero_()
        dist.all_reduce(sums)
        return drift_row(sums)

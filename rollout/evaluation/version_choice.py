"""Chooses the version to evaluate next: the first, every n-th, the last; where publication is faster, the newest."""

from __future__ import annotations

from collections.abc import Iterable

from leeway.v1 import rollout_pb2
from rollout.config.evaluation import EvaluationConfig


class VersionChoice:
    """Versions of a run, as they are announced, and which of them is due.

    Args:
        config: which versions are evaluated.
        evaluated: versions that were evaluated before, by an earlier process too.
        pending: a version that an earlier process had chosen and not finished; None: it had none.

    Attributes:
        finished: whether the run has made all its steps, so that no further version comes.
        pending: the version chosen last, until ``done``; it has to stay on disk.
    """

    def __init__(
        self, config: EvaluationConfig, evaluated: Iterable[int], pending: rollout_pb2.Policy | None = None
    ) -> None:
        self._config = config
        self._evaluated = set(evaluated)
        self._newest: rollout_pb2.Policy | None = None
        self.finished = False
        self.pending = pending
        if pending is not None and pending.version in self._evaluated:
            self.pending = None

    def announced(self, policy: rollout_pb2.Policy) -> None:
        """Takes a newer version; chooses it if it is due."""
        self._newest = policy
        self._choose()

    def end(self) -> None:
        """Notes that the run has made all its steps."""
        self.finished = True
        self._choose()

    def due(self) -> rollout_pb2.Policy | None:
        """The version to evaluate now; None: there is none yet, or after ``end`` none any more."""
        if self._config.at_end and not self.finished:
            return None
        return self.pending

    def done(self, version: int) -> None:
        """Notes that a version was evaluated, or given up, and chooses the next one."""
        self._evaluated.add(version)
        if self.pending is not None and self.pending.version == version:
            self.pending = None
        self._choose()

    def _choose(self) -> None:
        newest = self._newest
        if self.pending is not None or newest is None or newest.version in self._evaluated:
            return
        if self._is_due(newest):
            self.pending = newest

    def _is_due(self, newest: rollout_pb2.Policy) -> bool:
        if self.finished and self._config.final:
            return True
        if newest.step == 0:
            return self._config.first
        every = self._config.every
        # Versions are numbered from 0: without an earlier evaluation the first one due is version ``every``.
        return bool(every) and newest.version - max(self._evaluated, default=0) >= every

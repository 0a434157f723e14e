"""Reads what operators have changed when a learner starts, before anything is built with the settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from learner.config import LearnerConfig
from learner.config.changeable import fitting
from learner.megatron.parallel import Ranks
from learner.queue.change_journal import read_patiently


@dataclass(frozen=True)
class Start:
    """Settings that a learner starts with.

    Attributes:
        base: the run file's settings.
        config: settings in force: those of ``base`` with what operators have changed.
        in_force: name -> value as JSON, of the changed ones that fit.
        unfit: name -> reason, of those that the run file, which has been edited since, does not allow any more.
        paused: whether the run is paused.
    """

    base: LearnerConfig
    config: LearnerConfig
    in_force: Mapping[str, str]
    unfit: Mapping[str, str]
    paused: bool

    @classmethod
    def read(cls, base: LearnerConfig, ranks: Ranks, before: Start | None = None) -> Start:
        """Reads it on rank 0, waiting for a Redis that is not there yet. Collective.

        Args:
            base: settings of the run file.
            ranks: all ranks read at the same time.
            before: what was read before, if anything: only what differs from it is logged.

        Raises:
            UnavailableError: Redis has not answered for queue.outage_s (rank 0).
        """
        found = ranks.run_on_rank_zero(lambda: read_patiently(base.queue))
        content = None if found is None else json.dumps([dict(found.settings), found.paused]).encode()
        settings, paused = json.loads(ranks.broadcast_bytes(content))
        config, unfit = fitting(base, settings)
        in_force = {name: value for name, value in settings.items() if name not in unfit}
        start = cls(base, config, in_force, unfit, paused)
        if ranks.rank == 0 and start != (before or cls(base, base, {}, {}, False)):
            for name, reason in unfit.items():
                structlog.get_logger().error(
                    "a changed setting does not fit any more: it is given up", setting=name, reason=reason
                )
            structlog.get_logger().warning("operators have changed what is in force", settings=in_force, paused=paused)
        return start

"""Runs one learner rank as a process: starts it, trains, and turns failures into exit statuses."""

from __future__ import annotations

import os

from structlog.stdlib import BoundLogger

from learner.checkpoint.rollback import ROLLED_BACK
from learner.config import LearnerConfig
from learner.megatron.parallel import start
from learner.process.health import RankHealth
from learner.telemetry.rank_metrics import RankMetrics
from learner.train import train
from runtime.errors import MISCONFIGURED, LeewayError
from runtime.status import Status


def launch(config: LearnerConfig, log: BoundLogger) -> int:
    """Runs this rank.

    Returns:
        The exit status: 0 if done or stopped cleanly, 2 for a mistake in the configuration, ROLLED_BACK to be started again
        at once, 1 for any other failure.
    """
    health = RankHealth(config.silence_s)
    rank_metrics = RankMetrics(health)
    try:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        Status.start(config.status.listen, rank_metrics.registry.prometheus, health.alive, health.ready, local_rank)
        ranks = start(config.parallel, config.seed, config.collective_timeout_s)
        done = train(config, ranks, rank_metrics)
        ranks.stop()
    except LeewayError as error:
        log.error("configuration" if error.exit_status == MISCONFIGURED else "stopped", error=str(error))
        return error.exit_status
    return 0 if done else ROLLED_BACK

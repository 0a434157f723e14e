"""Runs one learner rank as a process: starts it, trains, and turns failures into exit statuses."""

from __future__ import annotations

import os

from structlog.stdlib import BoundLogger

from learner.checkpoint.rollback import ROLLED_BACK
from learner.config import LearnerConfig
from learner.config.gpu_signs import signs_in_settings, signs_of_machine
from learner.megatron.parallel import start
from learner.process.health import RankHealth
from learner.telemetry.rank_metrics import RankMetrics
from learner.train import train
from runtime.errors import MISCONFIGURED, LeewayError
from runtime.status import Status
from runtime.termination import leave_reason


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
        if ranks.device.type == "cpu" and ranks.rank == 0:
            warn_of_cpu(config, log)
        done = train(config, ranks, rank_metrics)
        ranks.stop()
    except LeewayError as error:
        leave_reason(str(error))
        log.error("configuration" if error.exit_status == MISCONFIGURED else "stopped", error=str(error))
        return error.exit_status
    return 0 if done else ROLLED_BACK


def warn_of_cpu(config: LearnerConfig, log: BoundLogger) -> None:
    """Logs a warning that training runs on the CPU, where the settings or the machine say that a GPU was meant."""
    signs = signs_in_settings(config) + signs_of_machine(os.environ)
    if signs:
        log.warning(
            "TRAINING ON THE CPU: torch finds no GPU. Is the driver new enough, is the GPU given to this container, is torch "
            "built for CUDA? leeway doctor looks",
            signs_of_a_gpu=signs,
        )

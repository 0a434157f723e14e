"""The process boundary of a learner rank: starts the ranks, trains, turns failures into exit statuses."""

from __future__ import annotations

import os

from structlog.stdlib import BoundLogger

from learner.checkpoint.rollback import ROLLED_BACK
from learner.checkpoint.store import CheckpointError
from learner.config import LearnerConfig
from learner.intake.batch_source import IntakeError
from learner.megatron.checkpointing.sharded_state import LoadError
from learner.megatron.model.architecture import ModelError
from learner.megatron.parallel import LayoutError, start
from learner.process.health import RankHealth
from learner.publish.catalog import CatalogError
from learner.queue import QueueError
from learner.storage.fence import SupersededError
from learner.telemetry.rank_metrics import RankMetrics
from learner.train import train
from learner.warmup import DemonstrationError
from runtime.settings import SettingsError
from runtime.status import Status


def launch(config: LearnerConfig, log: BoundLogger) -> int:
    """Runs this rank.

    Exit status: 0 done or stopped cleanly, 2 something to mend in the configuration, ROLLED_BACK to be started again at once,
    1 anything else.
    """
    health = RankHealth(config.silence_s)
    meters = RankMetrics(health)
    try:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        Status.start(config.status.listen, meters.instruments.registry, health.alive, health.ready, local_rank)
        ranks = start(config.parallel, config.seed, config.collective_timeout_s)
        done = train(config, ranks, meters)
        ranks.stop()
    except (LayoutError, ModelError, DemonstrationError, SettingsError) as error:
        log.error("configuration", error=str(error))
        return 2
    except (CatalogError, CheckpointError, SupersededError, LoadError, IntakeError, QueueError) as error:
        log.error("stopped", error=str(error))
        return 1
    return 0 if done else ROLLED_BACK

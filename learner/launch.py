"""The process boundary of a learner rank: starts the ranks, trains, turns failures into exit statuses."""

from __future__ import annotations

from structlog.stdlib import BoundLogger

from learner.claim import SupersededError
from learner.config import LearnerConfig
from learner.intake import IntakeError
from learner.megatron.model import ModelError
from learner.megatron.parallel import LayoutError, start
from learner.megatron.state import LoadError
from learner.queue import QueueError
from learner.resume import CheckpointError
from learner.train import train
from learner.warmup import DemonstrationError
from runtime.settings import SettingsError


def launch(config: LearnerConfig, log: BoundLogger) -> int:
    """Runs this rank. Exit status: 0 done or stopped cleanly, 2 something to mend in the configuration, 1 anything else."""
    try:
        ranks = start(config.parallel, config.seed, config.collective_timeout_s)
        train(config, ranks)
        ranks.stop()
    except (LayoutError, ModelError, DemonstrationError, SettingsError) as error:
        log.error("configuration", error=str(error))
        return 2
    except (CheckpointError, SupersededError, LoadError, IntakeError, QueueError) as error:
        log.error("stopped", error=str(error))
        return 1
    return 0

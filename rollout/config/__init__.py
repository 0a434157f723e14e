"""The settings of a rollout worker, which need neither SGLang nor torch nor gRPC."""

from rollout.config.endpoint import EndpointConfig
from rollout.config.engine import EngineConfig
from rollout.config.sampling import SamplingConfig
from rollout.config.task import EpisodeLimits, TaskConfig
from rollout.config.tls import ClientTlsConfig
from rollout.config.worker import WorkerConfig

__all__ = [
    "ClientTlsConfig",
    "EndpointConfig",
    "EngineConfig",
    "EpisodeLimits",
    "SamplingConfig",
    "TaskConfig",
    "WorkerConfig",
]

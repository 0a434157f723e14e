"""The settings of a rollout worker, which need neither SGLang nor torch nor gRPC."""

from rollout.config.endpoint import EndpointConfig
from rollout.config.engine import EngineConfig
from rollout.config.environments import EnvironmentsConfig
from rollout.config.evaluation import EVALUATION_PORT, EvaluationConfig, EvaluationSampling, EvaluatorConfig
from rollout.config.record import RecordConfig
from rollout.config.sampling import SamplingConfig
from rollout.config.task import EpisodeLimits, RestConfig, RewardConfig, TaskConfig
from rollout.config.tls import ClientTlsConfig
from rollout.config.worker import WorkerConfig

__all__ = [
    "EVALUATION_PORT",
    "ClientTlsConfig",
    "EndpointConfig",
    "EngineConfig",
    "EnvironmentsConfig",
    "EpisodeLimits",
    "EvaluationConfig",
    "EvaluationSampling",
    "EvaluatorConfig",
    "RecordConfig",
    "RestConfig",
    "RewardConfig",
    "SamplingConfig",
    "TaskConfig",
    "WorkerConfig",
]

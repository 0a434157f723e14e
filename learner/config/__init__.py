"""Settings of the gateway and the learner, importable without torch, redis or grpc.

Every process reads one file: `python -m learner.gateway FILE`, `torchrun ... -m learner FILE`. `leeway up` derives those
files from one run file (learner/cli/run/run_file.py).
"""

from learner.config.behaviour import BehaviourConfig
from learner.config.control import AlarmConfig, DiagnosticsConfig, LrControlConfig
from learner.config.gateway import (
    AdmissionConfig,
    ConnectionConfig,
    GatewayConfig,
    LimitsConfig,
    QuotaConfig,
    ServerTlsConfig,
    WantedConfig,
)
from learner.config.learner import (
    CheckpointConfig,
    LearnerConfig,
    OptimizerConfig,
    ParallelConfig,
    PublishConfig,
    WarmupConfig,
)
from learner.config.lora import LoraConfig
from learner.config.mirror import MirrorConfig
from learner.config.objective import ObjectiveConfig
from learner.config.queue import QueueConfig, RedisTlsConfig

__all__ = [
    "AdmissionConfig",
    "AlarmConfig",
    "BehaviourConfig",
    "CheckpointConfig",
    "ConnectionConfig",
    "DiagnosticsConfig",
    "GatewayConfig",
    "LearnerConfig",
    "LimitsConfig",
    "LoraConfig",
    "LrControlConfig",
    "MirrorConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PublishConfig",
    "QueueConfig",
    "QuotaConfig",
    "RedisTlsConfig",
    "ServerTlsConfig",
    "WantedConfig",
    "WarmupConfig",
]

"""The sections of a run file: each process's own settings without what `leeway up` fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model, model_validator

from learner.config import (
    AdmissionConfig,
    CheckpointConfig,
    GatewayConfig,
    LearnerConfig,
    LimitsConfig,
    PublishConfig,
    QueueConfig,
    WarmupConfig,
)
from learner.config.lateness import expiry_bound
from learner.config.presets import fill_learner
from rollout.config import EndpointConfig, EngineConfig, EvaluationConfig, RecordConfig, WorkerConfig
from runtime.memory import usable_memory
from runtime.settings import Settings

EMBEDDED = "embedded"


def _without(base: type[Settings], *derived: str) -> Any:
    """Makes a section of the run file from ``base``: without the derived fields, and without rules over several fields."""
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in base.model_fields.items() if name not in derived
    }
    return create_model(f"{base.__name__}Section", __base__=Settings, __doc__=base.__doc__, **fields)


class RunSection(Settings):
    """The run itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="the run's name, and that of its directory")
    dir: Path | None = Field(default=None, description="default: runs/<name>")
    seed: int = Field(default=0, description="of prompts, demonstrations and the made model: the same run again")
    resume: bool = Field(default=False, description="continue the run in the directory where it stopped")
    overwrite: bool = Field(default=False, description="rename an existing directory to <dir>.<n> and start a new run")
    status_port: int = Field(
        default=9100,
        ge=0,
        lt=65_000,
        description="HTTP endpoints (/metrics, /healthz, /readyz): the gateway's on this port + 1, the evaluator's "
        "on + 2, learner rank r's on "
        "+ 10 + r, worker i's on + 50 + i; 0: none",
    )


class ModelSection(Settings):
    """The initial policy."""

    path: str = Field(description='a Hugging Face directory, or "demo" or "demo-tools": `leeway up` makes a tiny model')


class QueueSection(_without(QueueConfig, "url", "run")):
    """Redis: one that `leeway up` starts in the run's directory, or an existing server."""

    url: str = Field(
        default=EMBEDDED,
        pattern=r"^(embedded|(redis|rediss|unix|redis\+sentinel|rediss\+sentinel)://.*)$",
        description='"embedded": `leeway up` starts a server in the run\'s directory; else the address of yours, as '
        "redis://host:6379/0, rediss://user:password@host:6379/0 or redis+sentinel://host:26379,host:26379/name/0",
    )
    aof: Literal["always", "everysec"] = Field(
        default="always", description="embedded: when appends are forced to disk"
    )
    memory_bytes: int | None = Field(
        default=None,
        gt=0,
        description="embedded: most memory that Redis may use; above it appends are refused until the learner has made room. "
        "Default: a quarter of the memory of this machine, or of its control group",
    )

    @property
    def redis_memory(self) -> int:
        """Most memory of the embedded Redis, in bytes."""
        return self.memory_bytes or usable_memory() // 4


class AdmissionSection(
    _without(AdmissionConfig, "groups_per_step", "max_staleness", "expire_after", "weights", "max_queued_bytes")
):
    """How many groups the gateway leases and accepts."""

    max_queued_bytes: int | None = Field(
        default=None,
        gt=0,
        description="payload bytes waiting in the queue above which submissions get RETRY; default: half of the embedded "
        "Redis's memory, or 64 GiB with another one",
    )


_LIMITS_DERIVED = ("vocab_size", "group_size", "max_response_context_tokens", "truncated_sampling", "routing")


class LimitsSection(_without(LimitsConfig, *_LIMITS_DERIVED)):
    """Largest sizes of what a gateway accepts."""


class GatewaySection(
    _without(GatewayConfig, "identities_file", "queue", "admission", "limits", "adapters", "best", "status", "traces")
):
    """The gateway."""

    admission: AdmissionSection = AdmissionSection()
    limits: LimitsSection = LimitsSection()


class WarmupSection(_without(WarmupConfig, "demonstrations")):
    """Supervised warm start on demonstrations, which the task's own solutions provide."""

    count: int = Field(default=8192, gt=0, description="number of demonstrations to make")


class CheckpointSection(_without(CheckpointConfig, "dir")):
    """Resumable checkpoints."""


class PublishSection(_without(PublishConfig, "dir", "best")):
    """Publication of versions to the fleets."""


class LearnerSection(
    _without(
        LearnerConfig, "model", "queue", "seed", "warmup", "checkpoint", "publish", "metrics_dir", "status", "traces"
    )
):
    """The learner."""

    processes: int | None = Field(default=None, gt=0, description="default: as few as learner.parallel needs")
    warmup: WarmupSection | None = None
    checkpoint: CheckpointSection = CheckpointSection()
    publish: PublishSection = PublishSection()

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_preset(cls, values: Any) -> Any:
        return fill_learner(values)

    @property
    def expiry_bound(self) -> int:
        """Staleness in optimizer steps above which groups expire."""
        return expiry_bound(self.max_staleness, self.late, self.expire_after, self.objective)

    @property
    def world_size(self) -> int:
        """Number of learner processes."""
        return self.processes or self.parallel.ranks


_WORKER_DERIVED = (
    *("name", "run", "fleet", "gateway", "token_file", "model", "state_dir", "allowed_uris", "log_dir"),
    *("metrics_dir", "seed", "max_message_bytes", "status", "traces"),
)


class RecordSection(_without(RecordConfig, "dir")):
    """Rollouts kept as text in the run's directory."""


class RolloutSection(_without(WorkerConfig, *_WORKER_DERIVED)):
    """Rollout workers on this machine, all of one fleet."""

    record: RecordSection = RecordSection()
    workers: int = Field(
        default=1,
        ge=0,
        description="worker processes on this machine; 0: none, fleets elsewhere or programs of your own submit all groups",
    )


class EvalSection(EvaluationConfig):
    """Evaluation of published versions, by a process with an engine of its own; without the section there is none."""

    engine: EngineConfig | None = Field(
        default=None,
        description="the evaluator's engine; default: like those of the workers, on port 30900; its servers are never theirs",
    )
    endpoint: EndpointConfig | None = Field(
        default=None,
        description="where agents reach the evaluator; default: a free port, otherwise as rollout.endpoint",
    )

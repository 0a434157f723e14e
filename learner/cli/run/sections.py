"""The sections of a run file: each process's own settings without what `leeway up` fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model

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
from rollout.config import WorkerConfig
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

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    dir: Path | None = Field(default=None, description="default: runs/<name>")
    seed: int = 0
    resume: bool = Field(default=False, description="continue the run in the directory where it stopped")
    overwrite: bool = Field(default=False, description="rename an existing directory to <dir>.<n> and start a new run")
    status_port: int = Field(
        default=9100,
        ge=0,
        lt=65_000,
        description="HTTP endpoints (/metrics, /healthz, /readyz): the gateway's on this port + 1, learner rank r's on "
        "+ 10 + r, worker i's on + 50 + i; 0: none",
    )


class ModelSection(Settings):
    """The initial policy."""

    path: str = Field(description='a Hugging Face directory, or "demo" or "demo-tools": `leeway up` makes a tiny model')


class QueueSection(_without(QueueConfig, "url", "run")):
    """Redis: one that `leeway up` starts in the run's directory, or an existing server."""

    url: str = Field(
        default=EMBEDDED, pattern=r"^(embedded|(redis|rediss|unix|redis\+sentinel|rediss\+sentinel)://.*)$"
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


_LIMITS_DERIVED = ("vocab_size", "group_size", "max_response_context_tokens", "truncated_sampling")


class LimitsSection(_without(LimitsConfig, *_LIMITS_DERIVED)):
    """Largest sizes of what a gateway accepts."""


class GatewaySection(_without(GatewayConfig, "identities_file", "queue", "admission", "limits", "status", "traces")):
    """The gateway."""

    admission: AdmissionSection = AdmissionSection()
    limits: LimitsSection = LimitsSection()


class WarmupSection(_without(WarmupConfig, "demonstrations")):
    """Supervised warm start on demonstrations, which the task's own solutions provide."""

    count: int = Field(default=8192, gt=0, description="number of demonstrations to make")


class CheckpointSection(_without(CheckpointConfig, "dir")):
    """Resumable checkpoints."""


class PublishSection(_without(PublishConfig, "dir")):
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


class RolloutSection(_without(WorkerConfig, *_WORKER_DERIVED)):
    """Rollout workers on this machine, all of one fleet."""

    workers: int = Field(default=1, gt=0)

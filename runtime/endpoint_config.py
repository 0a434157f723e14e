"""What a process tells about itself beside its log: settings that every process has. No torch, no grpc."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import Settings

# `leeway up` and deploy/ use these: first port of each kind of process, from a base that is 9100 by default.
GATEWAY_OFFSET, LEARNER_OFFSET, WORKER_OFFSET = 1, 10, 50


class StatusConfig(Settings):
    """The HTTP endpoint of a process: /metrics (Prometheus), /healthz (restart me when this fails), /readyz."""

    listen: str | None = Field(
        default=None, description="host:port; unset: none. Rank r of a learner's machine listens on port + r"
    )


class TraceConfig(Settings):
    """OpenTelemetry traces that follow a group from its prompt to the version that contains it."""

    endpoint: str | None = Field(default=None, description="OTLP/HTTP collector, http://host:4318; unset: no traces")
    sample: float = Field(default=0.01, gt=0, le=1, description="share of groups that are followed")

"""Settings of status endpoint and traces, which every process has. No torch, no grpc."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import Settings

# First status port of each kind of process, counted from a base port (9100 by default), for `leeway up` and deploy/.
GATEWAY_OFFSET, EVALUATOR_OFFSET, LEARNER_OFFSET, WORKER_OFFSET = 1, 2, 10, 50


class StatusConfig(Settings):
    """The HTTP status endpoint: /metrics (Prometheus), /healthz (a failure asks for a restart) and /readyz."""

    listen: str | None = Field(
        default=None, description="host:port; unset: no endpoint. Local rank r of a learner listens on port + r"
    )


class TraceConfig(Settings):
    """OpenTelemetry traces that follow a group from its prompt to the version that contains it."""

    endpoint: str | None = Field(default=None, description="OTLP/HTTP collector, http://host:4318; unset: no traces")
    sample: float = Field(default=0.01, gt=0, le=1, description="share of groups that are traced")

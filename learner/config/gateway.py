"""Settings of a gateway process: the section [gateway] of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from learner.config.queue import QueueConfig
from runtime.endpoint_config import StatusConfig, TraceConfig
from runtime.settings import Settings


class QuotaConfig(Settings):
    """What one fleet may send; unset: no limit of its own. Excess gets RETRY, never a place in the queue."""

    groups_per_s: float | None = Field(default=None, gt=0, description="over all gateways of the run")
    bytes_per_s: float | None = Field(default=None, gt=0, description="payload bytes, over all gateways of the run")
    max_queued_groups: int | None = Field(default=None, gt=0, description="backlog")
    max_queued_bytes: int | None = Field(default=None, gt=0, description="backlog, payload bytes")


class AdmissionConfig(Settings):
    """What the gateway promises and takes."""

    groups_per_step: int = Field(default=16, gt=0)
    max_staleness: int = Field(default=4, ge=0, description="optimizer steps; older groups expire when taken")
    lease_s: float = Field(default=60.0, gt=0, description="how long a lease's promise holds")
    max_queued_groups: int = Field(default=100_000, gt=0, description="backlog above which groups get RETRY")
    max_queued_bytes: int = Field(default=64 << 30, gt=0, description="payload bytes above which groups get RETRY")
    quota: QuotaConfig = Field(default=QuotaConfig(), description="of every fleet that quotas does not name")
    quotas: dict[str, QuotaConfig] = Field(default={}, description="fleet -> its quota")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="fleet -> share of the learner, relative; 1 for those not named"
    )


class LimitsConfig(Settings):
    """What a group may look like (validation at the gateway)."""

    vocab_size: int = Field(gt=0)
    group_size: tuple[int, int] = Field(default=(2, 128), description="smallest and largest number of responses")
    max_prompt_tokens: int = Field(default=32_768, gt=0)
    max_response_tokens: int = Field(default=65_536, gt=0)
    reward_range: tuple[float, float] = (-1e6, 1e6)
    max_message_bytes: int = Field(default=16 << 20, gt=0)

    @field_validator("group_size")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("expected [smallest, largest] with 1 <= smallest <= largest")
        return value


class ServerTlsConfig(Settings):
    """The gateway's certificate, and whose clients' it trusts. The files may be replaced at any time."""

    certificate: Path = Field(description="PEM, with its chain")
    key: Path = Field(description="PEM")
    client_ca: Path | None = Field(default=None, description="PEM; set: every client must show a certificate (mTLS)")


class ConnectionConfig(Settings):
    """What connections may cost the gateway."""

    max_streams: int = Field(default=2048, gt=0, description="Submit and WatchPolicy streams in all")
    max_streams_per_fleet: int = Field(default=256, gt=0, description="Submit and WatchPolicy streams of one fleet")
    calls_per_s: float = Field(default=200.0, gt=0, description="other calls of one fleet; above: RESOURCE_EXHAUSTED")
    idle_s: float = Field(default=900.0, gt=0, description="a Submit stream with nothing sent for so long is closed")
    keepalive_s: float = Field(default=30.0, gt=0, description="seconds between our pings of a silent client")
    min_ping_s: float = Field(default=5.0, ge=0, description="a client that pings more often is sent away")


class GatewayConfig(Settings):
    """One gateway process."""

    listen: str = Field(default="127.0.0.1:50051", description="host:port")
    identities_file: Path = Field(
        description='JSON: fleet -> {"tokens": [SHA-256 of a bearer token, hex], "sans": [a certificate\'s subject '
        'alternative name], "roles": ["submit", "operate"]}; read again when it changes'
    )
    tls: ServerTlsConfig | None = Field(default=None, description="unset: plain text, for this machine only")
    insecure: bool = Field(default=False, description="plain text on an address that other machines can reach")
    connections: ConnectionConfig = ConnectionConfig()
    queue: QueueConfig
    admission: AdmissionConfig = AdmissionConfig()
    limits: LimitsConfig
    max_unacked: int = Field(default=256, gt=0, description="groups read and not yet acknowledged, per stream")
    flush_groups: int = Field(default=32, gt=0, description="most groups in one Redis pipeline")
    drain_s: float = Field(default=5.0, gt=0, description="time to flush and ack after SIGTERM")
    quarantine_groups: int = Field(default=100, ge=0, description="rejected groups kept for the operator")
    status: StatusConfig = StatusConfig()
    traces: TraceConfig = TraceConfig()

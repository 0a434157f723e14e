"""Settings of a gateway process: the section [gateway] of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from learner.config.lateness import check_expire_after
from learner.config.queue import QueueConfig
from runtime.endpoint_config import StatusConfig, TraceConfig
from runtime.message_size import MOST_MESSAGE_BYTES
from runtime.routing_record import RoutingShape
from runtime.settings import Settings

_MOST_REWARD = 1e18


class QuotaConfig(Settings):
    """Limits of one fleet; an unset one does not limit the fleet. Groups above a limit are answered with RETRY."""

    groups_per_s: float | None = Field(
        default=None, gt=0, description="groups per second, over all gateways of the run"
    )
    bytes_per_s: float | None = Field(
        default=None, gt=0, description="payload bytes per second, over all gateways of the run"
    )
    max_queued_groups: int | None = Field(default=None, gt=0, description="groups waiting in the queue")
    max_queued_bytes: int | None = Field(
        default=None, gt=0, description="payload bytes waiting in the queue, and 100 bytes for each remembered id"
    )


class AdmissionConfig(Settings):
    """Admission control: leases, backlog limits, quotas and shares of fleets."""

    groups_per_step: int = Field(default=16, gt=0, description="groups that the learner trains in one step")
    max_staleness: int = Field(
        default=4, ge=0, description="optimizer steps; leases are granted so that groups need not become older"
    )
    expire_after: int | None = Field(
        default=None,
        ge=0,
        description="optimizer steps; an older group is rejected as too_stale, because the learner would let it expire: "
        "the learner's own bound (learner.expire_after and its default). Unset: none is rejected for its age",
    )
    lease_s: float = Field(
        default=60.0,
        gt=0,
        description="seconds for which a lease is valid; workers renew the leases of groups that are still being made",
    )
    longest_lease_s: float = Field(
        default=3600.0,
        gt=0,
        description="seconds after its grant from which a lease is not renewed any more; above the time of the slowest group",
    )
    max_queued_groups: int = Field(
        default=100_000, gt=0, description="groups waiting in the queue above which submissions get RETRY"
    )
    max_queued_bytes: int = Field(
        default=64 << 30, gt=0, description="payload bytes waiting in the queue above which submissions get RETRY"
    )
    quota: QuotaConfig = Field(default=QuotaConfig(), description="quota of every fleet that quotas does not name")
    quotas: dict[str, QuotaConfig] = Field(default={}, description="quota of each fleet, by its name")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="relative share of the learner of each fleet, by its name; 1 for the others"
    )

    @field_validator("longest_lease_s")
    @classmethod
    def _one_lifetime(cls, value: float, info: ValidationInfo) -> float:
        lease_s = info.data.get("lease_s", 0.0)
        if value < lease_s:
            raise ValueError(f"expected at least lease_s, which is {lease_s:g}: raise it")
        return value

    @model_validator(mode="after")
    def _expire_after_leases(self) -> AdmissionConfig:
        check_expire_after(self.expire_after, self.max_staleness)
        return self


class LimitsConfig(Settings):
    """Limits on a single group, checked when it is submitted."""

    vocab_size: int = Field(
        gt=0,
        description="ids at or above it are rejected: one above the tokenizer's largest id. vocab_size in config.json may "
        "be larger: rows of the embedding that are padding, whose ids decode to nothing",
    )
    group_size: tuple[int, int] = Field(default=(2, 128), description="smallest and largest number of responses")
    max_prompt_tokens: int = Field(default=32_768, gt=0, description="most tokens of a prompt")
    max_response_tokens: int = Field(
        default=65_536, gt=0, description="tokens of a response, or of one of its segments"
    )
    max_response_context_tokens: int = Field(
        default=16_384,
        gt=0,
        description="context and tokens of all segments of a response together: learner.micro_batch_tokens, since segments "
        "are never split over micro-batches. A response of one sequence may be longer, and gets a micro-batch of its own",
    )
    truncated_sampling: bool = Field(
        default=False,
        description="whether groups with truncated sampling (top_p, top_k, min_p) are taken; not where the learner "
        "recomputes the behaviour policy: an objective that needs it, or learner.behaviour.drift_every > 0",
    )
    reward_range: tuple[float, float] = Field(default=(-1e6, 1e6), description="smallest and largest reward")
    temperature_range: tuple[float, float] = Field(
        default=(0.05, 10.0),
        description="lowest and highest sampling temperature; gradients grow with 1/temperature, so that one tiny "
        "temperature would outweigh every other sequence of a step",
    )
    max_message_bytes: int = Field(
        default=16 << 20,
        gt=0,
        lt=MOST_MESSAGE_BYTES,
        description="largest gRPC message, and so the largest group, which Redis takes as one value, below 512 MiB; records "
        "of experts (engine.return_routed_experts) are nearly all of one: a byte for each token, layer and expert. Groups "
        "that they make too large go without them",
    )
    routing: RoutingShape | None = Field(
        default=None,
        description="the mixture layers of the model, its experts, and how many of them a token is sent to: groups may say "
        "which. Unset: the model is dense, and a group that names experts is rejected",
    )

    @field_validator("group_size")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("expected [smallest, largest] with 1 <= smallest <= largest")
        return value

    @field_validator("reward_range")
    @classmethod
    def _summable(cls, value: tuple[float, float]) -> tuple[float, float]:
        # The learner adds up squares of rewards, in single precision.
        if not -_MOST_REWARD <= value[0] <= value[1] <= _MOST_REWARD:
            raise ValueError(f"expected [smallest, largest], within {-_MOST_REWARD:g} to {_MOST_REWARD:g}")
        return value

    @field_validator("temperature_range")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        # Groups carry it in single precision, in which smaller numbers are 0 and larger ones infinite.
        if not 1e-6 <= value[0] <= value[1] <= 1e6:
            raise ValueError("expected [lowest, highest], within 1e-06 to 1e+06")
        return value


class WantedConfig(Settings):
    """What the run's owner wants of fleets, which DescribeRun tells them. Nothing is rejected because of it."""

    temperature: float | None = Field(default=None, gt=0, description="sampling temperature")
    prompt_format: Literal["raw", "chat"] | None = Field(
        default=None, description="how prompts are written: as they are, or through the model's chat template"
    )
    group_size: int | None = Field(default=None, gt=0, description="responses of a group")
    max_new_tokens: int | None = Field(default=None, gt=0, description="generated tokens of a response")
    routed_experts: bool = Field(
        default=False,
        description="responses say which experts their tokens were sent to; a run file sets it with learner.replay_routing",
    )


class AdapterConfig(Settings):
    """What the run's versions are where they are adapters (learner.publish.form), for engines to be prepared."""

    rank: int = Field(gt=0, description="learner.lora.rank")
    targets: tuple[str, ...] = Field(min_length=1, description="learner.lora.targets")


class ServerTlsConfig(Settings):
    """The gateway's certificate, and the authority of its clients'. The files may be replaced at any time."""

    certificate: Path = Field(description="PEM file of the certificate and its chain")
    key: Path = Field(description="PEM file of its private key")
    client_ca: Path | None = Field(
        default=None,
        description="PEM file of an authority; if set, every client must present a certificate of it (mTLS)",
    )


class ConnectionConfig(Settings):
    """Limits on connections, streams and calls."""

    max_streams: int = Field(default=2048, gt=0, description="Submit and WatchPolicy streams in all")
    max_streams_per_fleet: int = Field(default=256, gt=0, description="Submit and WatchPolicy streams of one fleet")
    calls_per_s: float = Field(
        default=200.0, gt=0, description="calls per second of one fleet, streams apart; above it: RESOURCE_EXHAUSTED"
    )
    idle_s: float = Field(
        default=900.0, gt=0, description="seconds without a message after which a Submit stream is closed"
    )
    max_connections: int = Field(
        default=4096,
        gt=0,
        description="connections in all, whether or not their callers have credentials; more are closed at once. It is "
        "lowered to what the process may open",
    )
    unused_s: float = Field(
        default=60.0, gt=0, description="seconds without a call in progress after which a connection is closed"
    )
    keepalive_s: float = Field(default=30.0, gt=0, description="seconds between the gateway's pings of a silent client")
    min_ping_s: float = Field(
        default=5.0,
        ge=0,
        description="least seconds between a client's pings; a client that pings more often is disconnected",
    )


class GatewayConfig(Settings):
    """Settings of one gateway process."""

    listen: str = Field(default="127.0.0.1:50051", description="host:port")
    identities_file: Path = Field(
        description='JSON: fleet -> {"tokens": [SHA-256 of a bearer token, hex], "sans": [a certificate\'s subject '
        'alternative name], "roles": ["submit", "operate"]}; read again when it changes'
    )
    tls: ServerTlsConfig | None = Field(default=None, description="unset: plain text, on loopback addresses only")
    insecure: bool = Field(default=False, description="allow plain text on an address that other machines can reach")
    connections: ConnectionConfig = ConnectionConfig()
    queue: QueueConfig
    admission: AdmissionConfig = AdmissionConfig()
    limits: LimitsConfig
    wanted: WantedConfig = WantedConfig()
    adapters: AdapterConfig | None = Field(
        default=None,
        description="unset: versions are full weights. A run file sets it by learner.publish.form",
    )
    max_unacked: int = Field(default=256, gt=0, description="most groups read and not yet acknowledged, per stream")
    max_unacked_bytes: int = Field(
        default=256 << 20,
        gt=0,
        description="bytes of groups read and without an outcome, in all, above which nothing more is read",
    )
    max_unacked_bytes_per_fleet: int = Field(
        default=64 << 20,
        gt=0,
        description="bytes of one fleet's groups above which nothing more is read from that fleet",
    )
    flush_groups: int = Field(default=32, gt=0, description="most groups in one Redis pipeline")
    drain_s: float = Field(default=5.0, gt=0, description="seconds for flushing and acknowledging after SIGTERM")
    quarantine_groups: int = Field(
        default=100, ge=0, description="most rejected groups kept for inspection (`leeway quarantine`)"
    )
    best: str | None = Field(
        default=None,
        description="the metric by which operators are told which version is the best, name:sampling:metric, such as "
        "sort:greedy:mean@1; a run file with [eval] sets it (eval.best). Unset: none",
    )
    status: StatusConfig = StatusConfig()
    traces: TraceConfig = TraceConfig()

    @model_validator(mode="after")
    def _wants_what_it_takes(self) -> GatewayConfig:
        limits, wanted = self.limits, self.wanted
        for name, value, (lowest, highest), limit in (
            ("temperature", wanted.temperature, limits.temperature_range, "temperature_range"),
            ("group_size", wanted.group_size, limits.group_size, "group_size"),
            ("max_new_tokens", wanted.max_new_tokens, (1, limits.max_response_tokens), "max_response_tokens"),
        ):
            if value is not None and not lowest <= value <= highest:
                raise ValueError(
                    f"wanted.{name} = {value:g} is outside {lowest:g} to {highest:g}, as limits.{limit} has it: the gateway "
                    "would reject what it asks for; change one of them"
                )
        return self

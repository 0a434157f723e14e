"""The settings of one rollout worker process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from rollout.config.endpoint import EndpointConfig
from rollout.config.engine import EngineConfig
from rollout.config.environments import EnvironmentsConfig
from rollout.config.record import RecordConfig
from rollout.config.sampling import SamplingConfig
from rollout.config.task import TaskConfig, TaskMixture
from rollout.config.tls import ClientTlsConfig
from runtime.endpoint_config import StatusConfig, TraceConfig
from runtime.message_size import MOST_MESSAGE_BYTES
from runtime.settings import Settings
from runtime.version_format.places import place_of

_QUEUEING_S = 60.0  # that a request may wait in the engine before its first token
_SLOWEST_TOKENS_PER_S = 2.0  # of one response


class WorkerConfig(Settings):
    """One rollout worker process: `python -m rollout FILE`."""

    name: str = Field(
        default="worker-0",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="its own within the fleet. The number at its end says where in the data it begins: number a fleet's "
        "workers from 0, as a StatefulSet does; any may be added or taken away at any time",
    )
    run: str = Field(default="", description="the run's name, for logs and traces")
    fleet: str = Field(
        default="", description="the fleet's name, for logs and traces; the credentials decide who submits"
    )
    gateway: str = Field(description="host:port; several gateways of the run with commas between")
    token_file: Path | None = Field(default=None, description="file with the fleet's bearer token")
    tls: ClientTlsConfig | None = Field(default=None, description="unset: plain text, for this machine only")
    model: Path = Field(description="Hugging Face directory of the initial policy: architecture and tokenizer")
    state_dir: Path = Field(description="prompt cursor, and the ids of accepted groups")
    metrics_dir: Path | None = Field(default=None, description="metrics lines; unset: `metrics` beside state_dir")
    cache_dir: Path | None = Field(
        default=None,
        description="versions copied from other machines or rebuilt from deltas, readable by the engines; workers of a "
        "machine that share it copy each version once; unset: NAME.versions in state_dir",
    )
    allowed_uris: list[str] = Field(
        min_length=1,
        description="where versions may be read: file:///directory, s3://bucket/path, ...; a version that is below none of "
        "these is refused, whatever the gateway says",
    )
    locations: list[str] = Field(
        default=[],
        description="names of the places that versions are read from before all others, the most wanted first: mirrors of "
        "the run (learner.publish.mirror), local for the learner's disk; unset: in the order in which they are announced",
    )
    transfer_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        description="limit of copying one file of a version from another machine; tried three times",
    )
    log_dir: Path = Field(description="where its processes write what they print, and its engines their logs")
    file_bytes: int = Field(
        default=64 << 20,
        ge=1 << 16,
        description="size at which metrics lines, ids of accepted groups and engines' logs begin a new file; of each the one "
        "before is kept beside it, as .1, and older ones are deleted",
    )
    seed: int = Field(default=0, description="of the prompts: fleets with the same task need different ones")
    groups_per_request: int = Field(
        default=1, gt=0, description="prompts in one engine request, where responses are batched (engine.batch_tokens)"
    )
    requests: int = Field(
        default=2,
        gt=0,
        description="engine requests under way at once, per engine, where responses are batched; else engine.max_running "
        "and task.episodes are the limits",
    )
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    task: TaskMixture = Field(
        default=(TaskConfig(),),
        description="one table, or a mixture: an array of tables ([[task]]), from which prompts are drawn by weight",
    )
    endpoint: EndpointConfig = EndpointConfig()
    environments: EnvironmentsConfig = EnvironmentsConfig()
    max_message_bytes: int = Field(
        default=16 << 20, gt=0, lt=MOST_MESSAGE_BYTES, description="largest gRPC message, as the gateway has it"
    )
    record: RecordConfig = RecordConfig()
    status: StatusConfig = StatusConfig()
    traces: TraceConfig = TraceConfig()

    @field_validator("allowed_uris")
    @classmethod
    def _are_places(cls, uris: list[str]) -> list[str]:
        for uri in uris:
            try:
                place_of(uri)
            except ValueError as error:
                raise ValueError(
                    f"{uri!r}: {error}; list directories, as file:///var/lib/leeway/weights or s3://bucket/run"
                ) from error
        return uris

    @property
    def record_dir(self) -> Path:
        """Directory of the recorded groups."""
        beside = self.state_dir if self.metrics_dir is None else self.metrics_dir
        return self.record.dir or beside.parent / "rollouts"

    @property
    def endpoint_dir(self) -> Path:
        """Directory of the endpoint's unix socket, which agents have to reach where they run."""
        launcher = self.environments.socket
        return self.state_dir if launcher is None else launcher.parent

    @property
    def request_timeout_s(self) -> float:
        """Limit of one engine request in seconds: as set, or what the longest response takes at two tokens a second.

        A loaded engine makes five or more for each response. Whether an engine lives is found out from its /health, long
        before this limit; it ends only what even a working engine will never answer.
        """
        if self.engine.request_timeout_s is not None:
            return self.engine.request_timeout_s
        return _QUEUEING_S + self.sampling.max_new_tokens / _SLOWEST_TOKENS_PER_S

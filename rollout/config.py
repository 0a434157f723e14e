"""The settings of a rollout worker. Importing them needs neither SGLang nor torch nor gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from runtime.endpoint_config import StatusConfig, TraceConfig
from runtime.settings import Settings
from runtime.version_format.places import place_of

_QUEUEING_S = 60.0  # that a request may wait in the engine before its first token
_SLOWEST_TOKENS_PER_S = 2.0  # of one response


class EngineConfig(Settings):
    """SGLang servers: started and supervised by the worker, or running elsewhere."""

    urls: list[str] = Field(default=[], description="servers that run elsewhere; empty: start servers here")
    count: int = Field(default=1, gt=0, description="servers to start when urls is empty")
    base_port: int = Field(default=30_000, gt=0, lt=65_536, description="server i listens on base_port + i")
    device: Literal["cpu", "cuda"] = "cpu"
    arguments: list[str] = Field(default=[], description="further arguments for sglang.launch_server")
    start_timeout_s: float = Field(default=180.0, gt=0)
    request_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="limit of one request; unset: 60 s, and half a second for each of max_new_tokens",
    )
    refit_timeout_s: float = Field(default=600.0, gt=0, description="limit of loading one version into an engine")
    refit: Literal["drain", "in_place", "retract"] = Field(
        default="retract",
        description="running requests at a refit: drain: end first (best for short responses); retract: go on, KV cache "
        "recomputed; in_place: go on with the old KV cache (cheapest, least exact)",
    )


class SamplingConfig(Settings):
    """Sampling parameters. Top-p and top-k stay off: the learner's probabilities are the full softmax."""

    responses: int = Field(default=8, gt=0, description="G, responses per prompt")
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=1024, gt=0)
    truncated: Literal["train", "withdraw"] = Field(
        default="train",
        description="groups with a response that max_new_tokens cut off: train: submitted, the text so far is scored; "
        "withdraw: not submitted. Both are counted",
    )


class TaskConfig(Settings):
    """The task: what is asked and how responses are scored."""

    name: str = Field(default="sort", description="a built-in task, or module:Class")
    options: dict[str, Any] = Field(default={}, description="keyword arguments of the task")
    prompt_format: Literal["raw", "chat"] = Field(default="raw", description="chat: through the tokenizer's template")
    on_change: Literal["refuse", "restart", "continue"] = Field(
        default="refuse",
        description="at a restart with other prompts than this worker has asked so far (other content of a file, seed or "
        "options): refuse: it does not start; restart: the new ones from their beginning; continue: at the same position",
    )
    reward_workers: int = Field(default=1, gt=0, description="slow tasks: processes that score responses")
    reward_timeout_s: float = Field(
        default=10.0, gt=0, description="slow tasks: a response not scored by then withdraws its group"
    )


class ClientTlsConfig(Settings):
    """TLS settings of a fleet: how the gateway is verified, and a client certificate. Empty: the system's authorities."""

    ca: Path | None = Field(default=None, description="PEM of the trusted authorities; unset: the system's")
    certificate: Path | None = Field(default=None, description="PEM of the fleet's certificate, for mTLS")
    key: Path | None = Field(default=None, description="PEM of its private key")
    server_name: str | None = Field(default=None, description="name in the gateway's certificate, if not its address")

    @model_validator(mode="after")
    def _pair(self) -> ClientTlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both, or neither")
        return self


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
    state_dir: Path = Field(description="prompt cursor and sample responses")
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
    transfer_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        description="limit of copying one file of a version from another machine; tried three times",
    )
    log_dir: Path
    seed: int = Field(default=0, description="of the prompts: fleets with the same task need different ones")
    groups_per_request: int = Field(default=1, gt=0, description="prompts in one engine request")
    requests: int = Field(default=2, gt=0, description="engine requests under way at once, per engine")
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    task: TaskConfig = TaskConfig()
    max_message_bytes: int = Field(default=16 << 20, gt=0)
    sample_every_s: float = Field(default=2.0, gt=0, description="seconds between logged sample responses")
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
    def request_timeout_s(self) -> float:
        """Limit of one engine request in seconds: as set, or what the longest response takes at two tokens a second.

        A loaded engine makes five or more for each response. Whether an engine lives is found out from its /health, long
        before this limit; it ends only what even a working engine will never answer.
        """
        if self.engine.request_timeout_s is not None:
            return self.engine.request_timeout_s
        return _QUEUEING_S + self.sampling.max_new_tokens / _SLOWEST_TOKENS_PER_S

"""Settings of the SGLang servers of a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from runtime.settings import Settings


class EngineConfig(Settings):
    """SGLang servers: started and supervised by the worker, or running elsewhere."""

    urls: list[str] = Field(default=[], description="servers that run elsewhere; empty: start servers here")
    router: str | None = Field(
        default=None,
        description="http://host:port of an sglang-router in front of all of urls: generation goes through it, weights are "
        "loaded into the servers themselves",
    )
    key_file: Path | None = Field(
        default=None,
        description="file with the key that servers of urls want in every request (SGLang's --api-key and --admin-api-key); "
        "read again when an engine is connected again; unset: they want none",
    )
    count: int = Field(default=1, gt=0, description="servers to start when urls is empty")
    base_port: int = Field(default=30_000, gt=0, lt=65_536, description="server i listens on base_port + i")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where SGLang computes")
    arguments: list[str] = Field(default=[], description="further arguments for sglang.launch_server")
    start_timeout_s: float = Field(
        default=180.0, gt=0, description="an engine that does not answer by then after its start is started again"
    )
    request_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="limit of one request, and of a streamed one's silence; unset: 60 s, and half a second for each of "
        "max_new_tokens",
    )
    refit_timeout_s: float = Field(default=600.0, gt=0, description="limit of loading one version into an engine")
    refit: Literal["drain", "in_place", "retract"] = Field(
        default="retract",
        description="running requests at a refit: drain: end first (best for short responses); retract: go on, KV cache "
        "recomputed; in_place: go on with the old KV cache (cheapest, least exact)",
    )
    return_routed_experts: bool = Field(
        default=False,
        description="ask the engines which experts of a mixture they have sent the tokens to, and send that with the "
        "responses, for a learner with replay_routing: a byte for each token (the prompt's too), layer and expert, two with "
        "more than 256 experts. Servers of urls need --enable-return-routed-experts. Where refit = retract, SGLang computes "
        "the tokens of a response under way again with the new version: they carry the experts of that version, not those "
        "of the one that sampled them",
    )
    adapters: bool = Field(
        default=True,
        description="versions that are adapters (learner.publish.form) are loaded beside the model, by SGLang's LoRA: while "
        "requests run, which end with the version that they began with, whatever refit says; false, with a router, or of "
        "projections that SGLang does not load alone (q_proj or k_proj without v_proj, k_proj or v_proj without q_proj, "
        "up_proj without gate_proj): the worker merges them into a copy of the model in cache_dir, and the whole is loaded",
    )
    batch_tokens: int = Field(
        default=64,
        ge=0,
        description="responses of at most so many tokens are asked for in one request for a whole batch, longer ones in one "
        "request each, so that none waits for the longest",
    )
    max_running: int = Field(
        default=512,
        gt=0,
        description="most streamed responses under way on one engine; fewer while it says that it has too much to do",
    )

    @property
    def loads_adapters(self) -> bool:
        """Whether engines load adapters beside the model. A router does not know which of them have one."""
        return self.adapters and self.router is None

    @model_validator(mode="after")
    def _key_has_servers(self) -> Self:
        if self.key_file is not None and not self.urls:
            raise ValueError(
                f"key_file = {str(self.key_file)!r}: servers that are started here listen on this machine alone and have no "
                "key; set urls, or remove key_file"
            )
        return self

    @model_validator(mode="after")
    def _router_has_servers(self) -> Self:
        if self.router is not None and not self.urls:
            raise ValueError(
                f"router = {self.router!r}: weights cannot be loaded through a router; list its servers in urls too"
            )
        if self.router is not None and self.refit == "drain":
            raise ValueError(
                f"router = {self.router!r}: it sends requests to a server that drains; set refit = 'retract'"
            )
        return self

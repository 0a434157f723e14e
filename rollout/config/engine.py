"""Settings of the SGLang servers of a worker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runtime.settings import Settings


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

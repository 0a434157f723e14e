"""Settings of the endpoint that agents call."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from runtime.settings import Settings


class EndpointConfig(Settings):
    """The worker's OpenAI- and Anthropic-compatible HTTP endpoint. It is started where the task needs it."""

    listen: str = Field(
        default="127.0.0.1:0",
        description="host:port for agents; port 0 takes a free one. Another address than loopback lets other machines in",
    )
    url: str = Field(
        default="", description="base URL that agents are told, where a proxy or another host name leads here"
    )
    tool_parser: str = Field(
        default="auto",
        description="format of tool calls in the model's text: auto (by the chat template), hermes, llama3, pythonic, or "
        "sglang:NAME for one of the engine's own parsers",
    )
    reasoning_parser: str = Field(
        default="auto",
        description="think: text between <think> and </think>; none; auto: think where the chat template knows of reasoning; "
        "or sglang:NAME",
    )
    foreign_sampling: Literal["override", "refuse"] = Field(
        default="override",
        description="calls that ask for another temperature, top_p ... than [rollout.sampling]: override: the worker's "
        "values are used, and it is counted; refuse: HTTP 400",
    )
    remote_token_file: Path | None = Field(
        default=None,
        description="file with the bearer token with which agents elsewhere ask for episodes (POST /v1/episodes); unset: "
        "nobody may",
    )

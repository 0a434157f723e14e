"""Settings of what is asked, of the agents that answer, and of how responses are scored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from runtime.settings import Settings


class EpisodeLimits(Settings):
    """Limits of one episode; a response that reaches one is treated as ``over_limit`` says."""

    turns: int = Field(default=64, gt=0, description="generations")
    tokens: int | None = Field(
        default=None, gt=0, description="context and generated tokens of all segments; unset: what the run takes"
    )
    seconds: float = Field(default=600.0, gt=0)
    memory_mb: int | None = Field(
        default=None, gt=0, description="memory of a process that runs tasks or agents; unset: no limit"
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

"""Settings of how tokens are drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runtime.settings import Settings


class SamplingConfig(Settings):
    """Sampling parameters. Truncation (top_p, top_k, min_p) is for objectives that need no behaviour policy."""

    responses: int = Field(default=8, gt=0, description="G, responses per prompt")
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=1024, gt=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, gt=0)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    truncated: Literal["train", "withdraw"] = Field(
        default="train",
        description="groups with a response that max_new_tokens cut off: train: submitted, the text so far is scored; "
        "withdraw: not submitted. Both are counted",
    )

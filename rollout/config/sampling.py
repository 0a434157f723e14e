"""Settings of how tokens are drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runtime.settings import Settings


class SamplingConfig(Settings):
    """Sampling parameters. Truncation (top_p, top_k, min_p) is for objectives that need no behaviour policy."""

    responses: int = Field(default=8, gt=0, description="G, responses per prompt")
    temperature: float = Field(
        default=1.0, gt=0, description="divides the logits before a token is drawn; 1: the model's own distribution"
    )
    max_new_tokens: int = Field(default=1024, gt=0, description="most tokens of one generation, its end token included")
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="draw among the likeliest tokens that hold this probability; unset: among all",
    )
    top_k: int | None = Field(default=None, gt=0, description="draw among this many likeliest tokens; unset: among all")
    min_p: float | None = Field(
        default=None, ge=0, lt=1, description="least probability of a token, as a share of the likeliest's; unset: none"
    )
    truncated: Literal["train", "withdraw"] = Field(
        default="train",
        description="groups with a response that max_new_tokens cut off: train: submitted, the text so far is scored; "
        "withdraw: not submitted. Both are counted",
    )

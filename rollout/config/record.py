"""Settings of the rollouts that a worker keeps as text."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from runtime.settings import Settings


class RecordConfig(Settings):
    """A sample of whole groups, kept as JSON lines for people, `leeway rollouts` and `leeway replay`."""

    enabled: bool = Field(default=True, description="false: nothing is recorded, and reports show no rollouts")
    dir: Path | None = Field(
        default=None,
        description="where the files WORKER-NUMBER.jsonl are; unset: `rollouts` beside metrics_dir, or beside state_dir",
    )
    every_s: float = Field(
        default=2.0, ge=0, allow_inf_nan=False, description="seconds between two recorded groups; 0: every group"
    )
    file_bytes: int = Field(default=16 << 20, ge=1 << 16, description="size at which the next file is begun")
    files: int = Field(
        default=8,
        ge=2,
        description="files kept of each worker: the first one for ever, with the run's first groups, and the newest ones",
    )
    group_bytes: int = Field(
        default=2 << 20,
        ge=1 << 13,
        description="most bytes of one group: token ids are left out first, then the middle of long texts",
    )
    tokens: bool = Field(default=True, description="whether token ids are kept, which `leeway replay` needs")
    mask: tuple[str, ...] = Field(
        default=(),
        description="regular expressions of secrets, written as *** in what is recorded, besides the usual keys, bearer "
        "tokens and private keys; the token ids of such a text are left out",
    )

    @field_validator("mask")
    @classmethod
    def _can_be_used(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if compiled.search("") is not None:
                raise ValueError(
                    f"{pattern!r} matches the empty text, and so everything; say what the secret looks like"
                )
        return patterns

    @model_validator(mode="after")
    def _groups_fit(self) -> RecordConfig:
        if self.group_bytes > self.file_bytes:
            raise ValueError(
                f"group_bytes = {self.group_bytes} is more than file_bytes = {self.file_bytes}: a group is in one file"
            )
        return self

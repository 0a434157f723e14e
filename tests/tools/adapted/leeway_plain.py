"""An environment of verifiers that brings no agent: verifiers' own chat or shell agents play it."""
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import verifiers.v1 as vf

__all__ = ["Endless"]


class Endless(vf.Taskset[vf.Task, vf.TasksetConfig]):
    """Questions without an end."""

    INFINITE = True

    def load(self) -> Any:
        """Yields questions."""
        while True:
            yield vf.Task(vf.TaskData(prompt="Say a digit."), self.config.task)

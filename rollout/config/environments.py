"""Settings of the processes in which tasks, judges and agents run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from runtime.settings import Settings


class EnvironmentsConfig(Settings):
    """Where the processes are started that run tasks, judges and agents of a user's own."""

    socket: Path | None = Field(
        default=None,
        description="unix socket of a launcher (python -m rollout.environments.serve --socket PATH), in a container without "
        "the worker's keys: code of a user's own runs there; unset: in child processes of the worker. The endpoint's own "
        "socket lies beside it. Rewards of this package run with the worker, and have its keys",
    )

"""What a person is told who starts a run without workers: where its gateway listens, and how a fleet gets a token."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.run_file import RunFile


def how_to_join(run_file: RunFile, here: Path) -> list[str]:
    """Lines that say how fleets reach the run; none for a run that has workers on this machine.

    Args:
        run_file: the run.
        here: the current directory, relative to which paths are shown.
    """
    if run_file.rollout.workers:
        return []
    root = run_file.directory.root
    shown = root.relative_to(here) if root.is_relative_to(here) else root
    transport = "over TLS" if run_file.gateway.tls else "in plain text"
    return [
        f"no workers here (rollout.workers = 0): fleets of your own submit to {run_file.gateway.listen}, {transport}",
        f"a token for a fleet: leeway fleet add {shown} NAME",
        f"the token of fleet {run_file.fleet!r}, for programs on this machine: {shown}/secrets/{run_file.fleet}.token",
    ]

"""Starts the process that submits recorded groups: it needs gRPC's client side, which this command does not import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from runtime.children import die_with_parent

_GRACE_S = 30.0  # over the process's own limit, to start in and to say how far it came


def submit_again(file: Path, options: Mapping[str, object], new_ids: bool, timeout_s: float) -> int:
    """Runs `python -m rollout replay` with this process's output; returns its exit status.

    Args:
        file: recorded groups, JSON lines.
        options: its options by name; those that are None are left out.
        new_ids: the groups get new ids.
        timeout_s: the time within which everything is to be acknowledged.
    """
    words = [sys.executable, "-m", "rollout", "replay", str(file), "--timeout-s", str(timeout_s)]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    words += ["--new-ids"] if new_ids else []
    try:
        return subprocess.run(words, check=False, timeout=timeout_s + _GRACE_S, preexec_fn=die_with_parent).returncode
    except subprocess.TimeoutExpired:
        typer.echo(f"error: it did not end within {timeout_s + _GRACE_S:g} s, and was ended", err=True)
        return 1

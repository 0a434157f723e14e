"""The command `leeway rewards`: the rewards that a task can be judged by, with their options."""

from __future__ import annotations

import subprocess
import sys

import typer

from learner.cli.run.errors import one_line_errors
from runtime.errors import LeewayError

_LIMIT_S = 60.0  # rewards of installed packages are imported, which can take seconds


class RewardsListError(LeewayError):
    """The list of rewards could not be made; the message says why."""


def rewards() -> None:
    """Lists the rewards that rollout.task.reward can name, with their options."""
    with one_line_errors():
        typer.echo(listed_rewards(), nl=False)


def listed_rewards() -> str:
    """Returns what `python -m rollout rewards` prints: the command itself does not import the rollout side.

    Raises:
        RewardsListError: it failed, or did not end.
    """
    command = [sys.executable, "-m", "rollout", "rewards"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RewardsListError(
            f"no list within {_LIMIT_S:g} s: the package of an entry point of leeway.rewards hangs when it is imported"
        ) from error
    if done.returncode:
        raise RewardsListError(f"python -m rollout rewards ended with {done.returncode}: {done.stderr[-300:].strip()}")
    return done.stdout

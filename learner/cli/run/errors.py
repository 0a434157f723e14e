"""How a command ends when its caller has made a mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from learner.cli.run.run_directory import RunError
from runtime.settings import SettingsError


@contextlib.contextmanager
def one_line_errors(*others: type[Exception]) -> Iterator[None]:
    """A mistake of the caller ends the command with one clear line and status 2.

    Args:
        others: mistakes too, besides those of settings, run directories and the queue.
    """
    from learner.queue import QueueError

    try:
        yield
    except (SettingsError, RunError, QueueError, *others) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error

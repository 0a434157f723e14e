"""Turns errors that a user can correct into one line on standard error and an exit status."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from runtime.errors import MISCONFIGURED, LeewayError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the command with one line and exit status 2 when a LeewayError is raised inside the block."""
    try:
        yield
    except LeewayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(MISCONFIGURED) from error

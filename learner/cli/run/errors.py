"""Turns errors that a user can correct into one line on standard error and an exit status."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from runtime.errors import MISCONFIGURED, LeewayError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the command with one line when an error is raised inside the block that its user can correct.

    The exit status is 2 for a LeewayError, and 1 for an OSError: a full disk, a directory that nobody can make.
    """
    try:
        yield
    except LeewayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(MISCONFIGURED) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise typer.Exit(1) from error

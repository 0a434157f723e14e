"""`leeway fleet`: manages the fleets that may submit to a run or operate it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from learner.cli.operate.ctl import drain, undrain
from learner.cli.operate.secret_patch import FileFleetError
from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import Run, RunCommand
from learner.cli.run.run_directory import RunError

fleet = typer.Typer(help="Manages the fleets that a run's gateways know.", no_args_is_help=True)

_Fleet = Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's name.")]


@fleet.command(cls=RunCommand)
def add(
    run: Run,
    name: _Fleet,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", metavar="submit|operate|evaluate", help="Allow this; may be repeated. A new fleet may submit."
        ),
    ] = None,
    san: Annotated[
        list[str] | None,
        typer.Option(
            "--san", metavar="NAME", help="A subject alternative name of its client certificates; may be repeated."
        ),
    ] = None,
    token: Annotated[bool, typer.Option("--token/--no-token", help="Make a new token and print it.")] = True,
) -> None:
    """Adds a fleet, or adds a token, certificate name or role to a known one. The token is printed once and not stored.

    It is printed when the gateways know it. A fleet of a cluster's own Secret is changed there: then the command for that is
    printed, and the exit status is 1.
    """
    from learner.cli.operate.opened_run import changing_fleet

    with one_line_errors():
        roles = role or []
        for given in roles:
            if given not in ("submit", "operate", "evaluate"):
                raise RunError(f"--role {given!r}: expected submit, operate or evaluate")
        try:
            with changing_fleet(run, name) as operations:
                drawn = operations.add_fleet(name, roles, san or [], token)  # pyright: ignore[reportArgumentType]
        except FileFleetError as error:
            _tell_secret(error)
            raise typer.Exit(1) from error
    if drawn is not None:
        typer.echo(drawn)


@fleet.command(cls=RunCommand)
def revoke(
    run: Run,
    name: _Fleet,
    older: Annotated[bool, typer.Option("--older", help="Revoke only its tokens before the newest one.")] = False,
) -> None:
    """Removes a fleet. Gateways end its streams within a second; groups that were accepted from it stay."""
    from learner.cli.operate.opened_run import changing_fleet

    with one_line_errors():
        try:
            with changing_fleet(run, name) as operations:
                operations.revoke_fleet(name, older)
        except FileFleetError as error:
            _tell_secret(error)
            raise typer.Exit(1) from error


@fleet.command("list", cls=RunCommand)
def list_(run: Run) -> None:
    """Lists every fleet with its roles, its number of tokens, its certificate names, where it is kept, and its state."""
    from learner.cli.operate.opened_run import reading

    with one_line_errors(), reading(run) as operations:
        known = operations.identities()
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for column in ("fleet", "roles", "tokens", "certificates", "kept in", "state"):
        table.add_column(column, justify="right" if column == "tokens" else "left")
    for one in known:
        kept, state = "queue" if one.added else "file", "drained" if one.drained else ""
        words = (one.name, ", ".join(one.roles), str(one.tokens), ", ".join(one.sans), kept, state)
        table.add_row(*map(escape, words))
    Console().print(table)


fleet.command("drain", cls=RunCommand)(drain)
fleet.command("undrain", cls=RunCommand)(undrain)


def _tell_secret(error: FileFleetError) -> None:
    """Prints what changes an identity that only the gateways' file has; its token comes last, and alone on stdout."""
    typer.echo(f"error: {error}", err=True)
    typer.echo("nothing is changed yet; where that file is the Secret of a cluster, this changes it:\n", err=True)
    typer.echo(f"{error.command}\n", err=True)
    if error.token is not None:
        typer.echo("no gateway accepts this token before that command has run (and about a minute after it):", err=True)
        typer.echo(error.token)

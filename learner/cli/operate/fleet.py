"""`leeway fleet`: manages the fleets that may submit to a run or operate it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory, RunError

fleet = typer.Typer(help="Manages the fleets that a run's gateways know.", no_args_is_help=True)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]
_Fleet = Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's name.")]


@fleet.command()
def add(
    run: _Run,
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
    """Adds a fleet, or adds a token, certificate name or role to a known one. The token is printed once and not stored."""
    from learner.cli.run.identities import add_fleet

    with one_line_errors():
        roles = role or []
        for given in roles:
            if given not in ("submit", "operate", "evaluate"):
                raise RunError(f"--role {given!r}: expected submit, operate or evaluate")
        drawn = add_fleet(RunDirectory.existing(run), name, roles, san or [], token)  # pyright: ignore[reportArgumentType]
    if drawn is not None:
        typer.echo(drawn)


@fleet.command()
def revoke(
    run: _Run,
    name: _Fleet,
    older: Annotated[bool, typer.Option("--older", help="Revoke only its tokens before the newest one.")] = False,
) -> None:
    """Removes a fleet. Gateways end its streams within a second; groups that were accepted from it stay."""
    from learner.cli.run.identities import revoke_fleet

    with one_line_errors():
        revoke_fleet(RunDirectory.existing(run), name, older)


@fleet.command("list")
def list_(run: _Run) -> None:
    """Lists every fleet with its roles, its number of tokens and its certificate names."""
    from learner.cli.run.identities import fleets_of

    with one_line_errors():
        known = fleets_of(RunDirectory.existing(run))
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for column in ("fleet", "roles", "tokens", "certificates"):
        table.add_column(column, justify="right" if column == "tokens" else "left")
    for name, identity in sorted(known.items()):
        roles = ", ".join(identity.get("roles", ["submit"]))
        table.add_row(name, roles, str(len(identity.get("tokens", []))), ", ".join(identity.get("sans", [])))
    Console().print(table)

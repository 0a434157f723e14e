"""`leeway quarantine`: shows, resubmits and deletes the rejected and refused groups that a run keeps for its operator."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import Run, RunCommand

quarantine = typer.Typer(
    help="Shows, resubmits and deletes groups that the gateways rejected or the learner refused.", no_args_is_help=True
)

_Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY...]", help="Keys or group ids; default: all.")]
_Fleet = Annotated[str | None, typer.Option("--fleet", metavar="NAME", help="Only groups of this fleet.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@quarantine.command("list", cls=RunCommand)
def list_(run: Run, fleet: _Fleet = None, as_json: _Json = False) -> None:
    """Lists the rejected and refused groups, newest first, with the reasons."""
    from learner.cli.operate.opened_run import reading
    from learner.cli.operate.replay import row, table

    with one_line_errors(), reading(run) as operations:
        entries = operations.quarantined([], fleet)
    if as_json:
        typer.echo(json.dumps([row(entry) for entry in entries], indent=2))
    elif entries:
        Console().print(table(entries, time.time()))
    else:
        typer.echo("no group is in quarantine")


@quarantine.command(cls=RunCommand)
def show(run: Run, keys: _Keys = None) -> None:
    """Prints groups with their content, as JSON."""
    from learner.cli.operate.opened_run import reading
    from learner.cli.operate.replay import row

    with one_line_errors(), reading(run) as operations:
        entries = operations.quarantined(keys or [], None)
    typer.echo(json.dumps([row(entry) for entry in entries], indent=2))


@quarantine.command(cls=RunCommand)
def replay(run: Run, keys: _Keys = None, fleet: _Fleet = None) -> None:
    """Submits groups again, under the run's present limits; accepted groups leave the quarantine."""
    from learner.cli.operate.opened_run import changing

    with one_line_errors(), changing(run) as operations:
        outcomes = operations.replay(keys or [], fleet)
    for one in outcomes:
        typer.echo(f"{one.key} {one.outcome}")
    stay = sum(not one.left for one in outcomes)
    typer.echo(f"{len(outcomes) - stay} submitted, {stay} stay in quarantine")
    raise typer.Exit(1 if stay else 0)


@quarantine.command(cls=RunCommand)
def purge(run: Run, keys: _Keys = None, fleet: _Fleet = None) -> None:
    """Deletes groups from the quarantine; the ledger still counts them."""
    from learner.cli.operate.opened_run import changing

    with one_line_errors(), changing(run) as operations:
        count = operations.purge(keys or [], fleet)
    typer.echo(f"{count} deleted")

"""`leeway quarantine`: shows, resubmits and deletes the rejected and refused groups that a run keeps for its operator."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory

quarantine = typer.Typer(
    help="Shows, resubmits and deletes groups that the gateways rejected or the learner refused.", no_args_is_help=True
)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]
_Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY...]", help="Keys or group ids; default: all.")]
_Fleet = Annotated[str | None, typer.Option("--fleet", metavar="NAME", help="Only groups of this fleet.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@quarantine.command("list")
def list_(run: _Run, fleet: _Fleet = None, as_json: _Json = False) -> None:
    """Lists the rejected and refused groups, newest first, with the reasons."""
    from learner.cli.operate.replay import chosen, row, table
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors(), queue_of(RunDirectory.existing(run)) as config, Quarantine(config) as kept:
        entries = chosen(kept.entries(), [], fleet)
    if as_json:
        typer.echo(json.dumps([row(entry) for entry in entries], indent=2))
    elif entries:
        Console().print(table(entries, time.time()))
    else:
        typer.echo("no group is in quarantine")


@quarantine.command()
def show(run: _Run, keys: _Keys = None) -> None:
    """Prints groups with their content, as JSON."""
    from learner.cli.operate.replay import chosen, row
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors(), queue_of(RunDirectory.existing(run)) as config, Quarantine(config) as kept:
        entries = chosen(kept.entries(), keys or [], None)
    typer.echo(json.dumps([row(entry) for entry in entries], indent=2))


@quarantine.command()
def replay(run: _Run, keys: _Keys = None, fleet: _Fleet = None) -> None:
    """Submits groups again, under the run's present limits; accepted groups leave the quarantine."""
    import asyncio

    from learner.cli.operate.replay import chosen, limits_of, replay
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors():
        directory = RunDirectory.existing(run)
        limits = limits_of(directory)
        with queue_of(directory) as config:
            with Quarantine(config) as kept:
                entries = chosen(kept.entries(), keys or [], fleet)
            outcomes = asyncio.run(replay(config, limits, entries))
    for key, outcome in outcomes:
        typer.echo(f"{key} {outcome}")
    stay = sum(outcome.startswith("stays") for _, outcome in outcomes)
    typer.echo(f"{len(outcomes) - stay} submitted, {stay} stay in quarantine")
    raise typer.Exit(1 if stay else 0)


@quarantine.command()
def purge(run: _Run, keys: _Keys = None, fleet: _Fleet = None) -> None:
    """Deletes groups from the quarantine; the ledger still counts them."""
    from learner.cli.operate.replay import chosen
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors(), queue_of(RunDirectory.existing(run)) as config, Quarantine(config) as kept:
        everything = not keys and fleet is None
        count = kept.purge() if everything else kept.remove(chosen(kept.entries(), keys or [], fleet))
    typer.echo(f"{count} deleted")

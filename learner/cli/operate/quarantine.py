"""`leeway quarantine`: the rejected groups that a run keeps for its operator."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory

quarantine = typer.Typer(help="Groups that the gateways rejected, newest first.", no_args_is_help=True)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]
_Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY...]", help="Keys or group ids; default: all.")]
_Fleet = Annotated[str | None, typer.Option("--fleet", metavar="NAME", help="Of one fleet only.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@quarantine.command("list")
def list_(run: _Run, fleet: _Fleet = None, as_json: _Json = False) -> None:
    """Shows why each group was rejected."""
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
        typer.echo("nothing is in quarantine")


@quarantine.command()
def show(run: _Run, keys: _Keys = None) -> None:
    """Shows groups with their content, as JSON."""
    from learner.cli.operate.replay import chosen, row
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors(), queue_of(RunDirectory.existing(run)) as config, Quarantine(config) as kept:
        entries = chosen(kept.entries(), keys or [], None)
    typer.echo(json.dumps([row(entry) for entry in entries], indent=2))


@quarantine.command()
def replay(run: _Run, keys: _Keys = None, fleet: _Fleet = None) -> None:
    """Submits groups once more, under the run's limits of today; those that are taken leave the quarantine."""
    from learner.cli.operate.replay import chosen, limits_of, replay
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors():
        directory = RunDirectory.existing(run)
        limits = limits_of(directory)
        with queue_of(directory) as config:
            with Quarantine(config) as kept:
                entries = chosen(kept.entries(), keys or [], fleet)
            fates = asyncio.run(replay(config, limits, entries))
    for key, fate in fates:
        typer.echo(f"{key} {fate}")
    stay = sum(fate.startswith("stays") for _, fate in fates)
    typer.echo(f"{len(fates) - stay} submitted, {stay} stay in quarantine")
    raise typer.Exit(1 if stay else 0)


@quarantine.command()
def purge(run: _Run, keys: _Keys = None, fleet: _Fleet = None) -> None:
    """Throws groups away; their rejection stays counted."""
    from learner.cli.operate.replay import chosen
    from learner.cli.run.queue import queue_of
    from learner.queue.quarantine import Quarantine

    with one_line_errors(), queue_of(RunDirectory.existing(run)) as config, Quarantine(config) as kept:
        everything = not keys and fleet is None
        count = kept.purge() if everything else kept.remove(chosen(kept.entries(), keys or [], fleet))
    typer.echo(f"{count} thrown away")

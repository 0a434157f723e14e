"""`leeway ctl`: changes a running service, and shows what operators have changed."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors
from learner.cli.run.place import RunPlace
from learner.cli.run.run_command import Run, RunCommand
from leeway.v1 import operator_pb2

ctl = typer.Typer(
    help="Changes a running service: pause, resume, learning rate, quotas, checkpoints. "
    "Exits with 0 if the change is applied, 1 if it is refused, 3 if the learner has not looked at it yet.",
    no_args_is_help=True,
)

_Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the change is applied or refused.")]
_Limit = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait no longer; the change stays requested.")
]
_LIMIT_S = 600.0


@ctl.command(cls=RunCommand)
def pause(run: Run, wait: _Wait = True, timeout_s: _Limit = _LIMIT_S) -> None:
    """Makes the learner train nothing more until it is resumed; it keeps its place, and fleets stay connected."""
    change(run, operator_pb2.Change(pause=operator_pb2.Pause()), wait, timeout_s)


@ctl.command(cls=RunCommand)
def resume(run: Run, wait: _Wait = True, timeout_s: _Limit = _LIMIT_S) -> None:
    """Makes a paused learner go on."""
    change(run, operator_pb2.Change(resume=operator_pb2.Resume()), wait, timeout_s)


@ctl.command(cls=RunCommand)
def checkpoint(run: Run, wait: _Wait = True, timeout_s: _Limit = _LIMIT_S) -> None:
    """Saves a checkpoint after the current step."""
    change(run, operator_pb2.Change(checkpoint=operator_pb2.SaveCheckpoint()), wait, timeout_s)


@ctl.command(cls=RunCommand)
def publish(run: Run, wait: _Wait = True, timeout_s: _Limit = _LIMIT_S) -> None:
    """Publishes the current weights as a version, whatever publish.every says."""
    change(run, operator_pb2.Change(publish=operator_pb2.PublishVersion()), wait, timeout_s)


@ctl.command(cls=RunCommand)
def finish(run: Run, wait: _Wait = True, timeout_s: _Limit = _LIMIT_S) -> None:
    """Ends the run: a checkpoint, a version, and fleets are told that it has finished."""
    change(run, operator_pb2.Change(finish=operator_pb2.Finish()), wait, timeout_s)


@ctl.command(cls=RunCommand)
def rollback(
    run: Run,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=0, help="The number of a version.")],
    wait: _Wait = True,
    timeout_s: _Limit = _LIMIT_S,
) -> None:
    """Goes on from the newest checkpoint at or before VERSION, as a new timeline."""
    change(run, operator_pb2.Change(rollback=operator_pb2.RollBack(version=version)), wait, timeout_s)


@ctl.command("set", cls=RunCommand)
def set_(
    run: Run,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="Settings with values as --set takes them, such as lr=1e-5."),
    ],
    wait: _Wait = True,
    timeout_s: _Limit = _LIMIT_S,
) -> None:
    """Changes settings, all or none; `leeway ctl settings` lists their names. They stay over restarts, until unset."""
    from learner.cli.operate.changed_settings import assignments

    with one_line_errors():
        found = assignments(values)
    change(run, operator_pb2.Change(set=operator_pb2.SetSettings(values=found)), wait, timeout_s)


@ctl.command(cls=RunCommand)
def unset(
    run: Run,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Settings that operators have changed.")],
    wait: _Wait = True,
    timeout_s: _Limit = _LIMIT_S,
) -> None:
    """Gives settings back the values that the run file has."""
    from learner.cli.operate.changed_settings import full_name

    with one_line_errors():
        found = [full_name(name) for name in names]
    change(run, operator_pb2.Change(unset=operator_pb2.UnsetSettings(names=found)), wait, timeout_s)


@ctl.command(cls=RunCommand)
def drain(
    run: Run,
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's name.")],
    wait: _Wait = True,
    timeout_s: _Limit = _LIMIT_S,
) -> None:
    """Grants a fleet no more groups to generate; what it has made is taken."""
    change(run, operator_pb2.Change(drain=operator_pb2.DrainFleet(fleet=fleet)), wait, timeout_s)


@ctl.command(cls=RunCommand)
def undrain(
    run: Run,
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="The fleet's name.")],
    wait: _Wait = True,
    timeout_s: _Limit = _LIMIT_S,
) -> None:
    """Grants a drained fleet groups again."""
    change(run, operator_pb2.Change(undrain=operator_pb2.UndrainFleet(fleet=fleet)), wait, timeout_s)


@ctl.command(cls=RunCommand)
def log(
    run: Run,
    after: Annotated[int, typer.Option("--after", metavar="NUMBER", min=0, help="Only changes after this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints what operators have changed: who, when, what, the values before and after, and what became of it."""
    from learner.cli.operate.opened_run import reading
    from learner.cli.view.change_text import change_row, change_table

    with one_line_errors(), reading(run) as operations:
        found = operations.changes(after)
    if as_json:
        typer.echo(json.dumps([change_row(one) for one in found], indent=2))
    elif found:
        Console().print(change_table(found))
    else:
        typer.echo("no operator has changed anything")


@ctl.command()
def settings() -> None:
    """Lists the names that `leeway ctl set` takes; <fleet> stands for a fleet's name. The end of a name is enough."""
    from learner.config.changeable import changeable

    typer.echo("\n".join(changeable()))


def change(run: RunPlace, change: operator_pb2.Change, wait: bool, timeout_s: float) -> None:
    """Requests a change at the run's gateway, prints what became of it, and ends the command with its exit status."""
    from learner.cli.run.connection import at_gateway

    with one_line_errors(), at_gateway(run) as client:
        from learner.cli.operate.change_request import request_change

        wait_s = timeout_s if wait else 0.0
        status = request_change(client, change, wait_s, typer.echo, lambda text: typer.echo(text, err=True))
    raise typer.Exit(status)

"""Commands whose first argument is RUN, unless `leeway --gateway` says where the run is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from learner.cli.run.errors import one_line_errors
from learner.cli.run.place import RunPlace
from learner.gateway.operator_target import Target

Run = Annotated[
    RunPlace,
    typer.Argument(
        metavar="RUN", parser=RunPlace.at, help="A run's directory, such as runs/demo; left out with --gateway."
    ),
]


class RunCommand(TyperCommand):
    """A command for a run on this machine, or for one elsewhere: then it has no argument RUN."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters, without RUN where a gateway is given."""
        found = super().get_params(ctx)
        return [one for one in found if one.name != "run"] if gateway_given(ctx) else found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments; ``run`` becomes the given gateway where there is one."""
        elsewhere = gateway_given(ctx)
        if elsewhere and not ctx.resilient_parsing:
            _refuse_both(args)
        rest = super().parse_args(ctx, args)
        if elsewhere and not ctx.resilient_parsing:
            values = ctx.find_root().params
            with one_line_errors():
                named = {one.name: values[one.name] for one in fields(Target) if one.name != "address"}
                ctx.params["run"] = RunPlace(target=Target(values["gateway"], **named))
        return rest


class DiskCommand(TyperCommand):
    """A command that needs the files of a run, and therefore its directory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments; a gateway on the command line is refused, not passed over."""
        if not ctx.resilient_parsing and "--help" not in args:
            refuse_gateway(ctx, ctx.command_path)
        return super().parse_args(ctx, args)


def gateway_given(ctx: Any) -> bool:
    """Whether the command line or the environment names a gateway."""
    return bool(ctx.find_root().params.get("gateway"))


def refuse_gateway(ctx: Any, command: str) -> None:
    """Ends the command with one line if --gateway stands on its command line; the environment may name one."""
    root = ctx.find_root()
    source = root.get_parameter_source("gateway")
    if gateway_given(ctx) and source is not None and source.name == "COMMANDLINE":
        typer.echo(
            f"error: {command}: this needs the run's files: run it where they are, with RUN and without --gateway",
            err=True,
        )
        raise typer.Exit(2)


def speaks_to_gateways(command: Any) -> bool:
    """Whether a command, or one of a group's, takes --gateway."""
    members = getattr(command, "commands", {}).values()
    return isinstance(command, RunCommand) or any(map(speaks_to_gateways, members))


def _refuse_both(args: list[str]) -> None:
    for one in args[:1]:
        if (Path(one) / "run.json").is_file():
            typer.echo(
                f"error: {one}: a run's directory, and --gateway (or LEEWAY_GATEWAY) names a gateway too: leave one out",
                err=True,
            )
            raise typer.Exit(2)

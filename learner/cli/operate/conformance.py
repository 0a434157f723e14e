"""`leeway conformance`: tells whether a fleet, or a gateway, obeys the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from learner.cli.run.errors import one_line_errors

if TYPE_CHECKING:
    from learner.conformance.report import Report

conformance = typer.Typer(
    help="Tells whether a fleet, or a gateway, obeys proto/leeway/v1/rollout.proto.", no_args_is_help=True
)

_Token = Annotated[str, typer.Argument(metavar="TOKEN", help="The fleet's bearer token.", envvar="LEEWAY_TOKEN")]


@conformance.command()
def gateway(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="host:port of the gateway.")], token: _Token
) -> None:
    """Sends a gateway a dozen groups that train nothing, and calls of every kind. Exits with 1 if a rule is broken."""
    import asyncio

    from learner.conformance.against_gateway import check_gateway

    with one_line_errors():
        _tell(asyncio.run(check_gateway(address, token)))


@conformance.command()
def fleet(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="host:port to listen on: the fleet's gateway.")],
    token: _Token,
    vocabulary: Annotated[int, typer.Option(help="Token ids are below it.")] = 32_000,
    weights: Annotated[str, typer.Option(help="URI of a published version, for fleets that load weights.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds in which the fleet has to live through the script.")] = 120.0,
) -> None:
    """Plays a gateway to one fleet: retries, broken streams, lost acks, a new version, the end. Exits with 1 likewise."""
    import asyncio

    from learner.config import LimitsConfig
    from learner.conformance.against_fleet import FleetCheck, check_fleet

    check = FleetCheck(address, token, LimitsConfig(vocab_size=vocabulary), timeout, weights)
    with one_line_errors():
        _tell(asyncio.run(check_fleet(check, lambda where: typer.echo(f"listening on {where}", err=True))))


def _tell(report: Report) -> None:
    typer.echo("\n".join(report.lines()))
    if not report.conforms:
        raise typer.Exit(1)

"""The commands `leeway status`, `leeway ledger` and `leeway evaluations`: the numbers of a run, here or elsewhere."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import Run

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(run: Run) -> None:
    """Shows a run's numbers, its processes if it is on this machine, and what operators have changed."""
    from learner.cli.operate.opened_run import reading

    with one_line_errors(), reading(run) as operations:
        operations.show_status(Console())


def ledger(
    run: Run,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 and print the difference if the ledger does not balance.")
    ] = False,
    as_json: _Json = False,
    only: Annotated[
        str | None, typer.Option("--fleet", metavar="NAME", help="Show the ledger of this fleet only.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    again: Annotated[
        bool, typer.Option("--recount", help="Recount from Redis and the checkpoints; exit with 1 at a discrepancy.")
    ] = False,
) -> None:
    """Shows each fleet's ledger: how many groups were received, and what became of them."""
    from learner.cli.operate.opened_run import reading
    from learner.cli.run.summary import ledger_row
    from learner.cli.view import ledger as view

    with one_line_errors(), reading(run) as operations:
        if watch:
            view.watch(Console(), lambda: operations.ledgers(only))
            return
        ledgers = operations.ledgers(only)
        found = operations.recount() if again else None
    rows = [ledger_row(ledger) for ledger in ledgers]
    if as_json:
        typer.echo(json.dumps({"ledgers": rows, "recount": found.row} if found else rows, indent=2))
    else:
        Console().print(view.ledger_tables(ledgers))
        typer.echo("\n".join(found.lines) if found else "", nl=bool(found))
    violations = view.violations(ledgers) if check else []
    for violation in violations:
        typer.echo(f"{view.IMBALANCE}: {violation}", err=True)
    if check and not violations and not as_json:
        typer.echo(f"the ledger balances for {len(ledgers)} fleet{'s' if len(ledgers) != 1 else ''}")
    if violations or (found and found.discrepancies):
        raise typer.Exit(1)


def evaluations(run: Run, as_json: _Json = False) -> None:
    """Shows what each evaluated version is worth, with 95 % intervals."""
    from learner.cli.operate.evaluation_table import evaluation_row, evaluations_table
    from learner.cli.operate.opened_run import reading

    with one_line_errors(), reading(run) as operations:
        found = operations.evaluations()
    if as_json:
        typer.echo(json.dumps([evaluation_row(one) for one in found], indent=2))
    elif found:
        Console().print(evaluations_table(found))
    else:
        typer.echo("no version was evaluated")

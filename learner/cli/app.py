"""The `leeway` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.operate.fleet import fleet
from learner.cli.operate.policy import policy
from learner.cli.operate.quarantine import quarantine
from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory

app = typer.Typer(
    help="Asynchronous post-training of language models: many rollout fleets, one learner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(policy, name="policy")
app.add_typer(fleet, name="fleet")
app.add_typer(quarantine, name="quarantine")

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]


@app.command()
def up(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file, or a run's directory with --resume.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
) -> None:
    """Starts everything a run on this machine needs, shows it, and stops it cleanly."""
    from learner.cli.up.up import run_to_end

    with one_line_errors():
        status = run_to_end(config, set_ or [], resume, Console())
    raise typer.Exit(status)


@app.command()
def doctor(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A run file, or a gateway's, learner's or worker's.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="URI", help="A worker's: where it sees the learner's publish.dir."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Looks for what usually goes wrong, before a run; exits with 1 when something would."""
    from learner.cli.doctor import examine

    findings = []
    for finding in examine(config, set_ or [], weights):
        findings.append(finding)
        if not as_json:
            typer.echo(finding.line)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    raise typer.Exit(1 if any(finding.state == "fail" for finding in findings) else 0)


@app.command()
def status(run: _Run) -> None:
    """Shows a run as it stands: its numbers and its processes."""
    from learner.cli.operate.status import print_status

    with one_line_errors():
        print_status(Console(), RunDirectory.existing(run))


@app.command()
def ledger(
    run: _Run,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 and the difference unless the law holds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    only: Annotated[str | None, typer.Option("--fleet", metavar="NAME", help="One fleet's account only.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    again: Annotated[
        bool, typer.Option("--recount", help="Count again from Redis and the checkpoints; exit with 1 at a difference.")
    ] = False,
) -> None:
    """Shows each fleet's account: every group ever received, and what became of it."""
    from learner.cli.run.summary import ledger_row
    from learner.cli.view import ledger as accounts

    found = None
    with one_line_errors():
        directory = RunDirectory.existing(run)
        if watch:
            accounts.watch(Console(), directory, only)
            return
        ledgers = accounts.ledgers_of(directory, only)
        if again:
            found = accounts.recount_of(directory)
    rows = [ledger_row(ledger) for ledger in ledgers]
    if as_json:
        typer.echo(json.dumps({"ledgers": rows, "recount": accounts.recount_row(found)} if found else rows, indent=2))
    else:
        Console().print(accounts.ledger_tables(ledgers))
        typer.echo("\n".join(accounts.recount_lines(found)) if found else "", nl=bool(found))
    broken = accounts.violations(ledgers) if check else []
    for violation in broken:
        typer.echo(f"the law is broken: {violation}", err=True)
    if check and not broken and not as_json:
        typer.echo(f"the law holds for {len(ledgers)} fleet{'s' if len(ledgers) != 1 else ''}")
    if broken or (found and found.discrepancies):
        raise typer.Exit(1)


@app.command()
def report(run: _Run) -> None:
    """Writes RUN/report.html: a self-contained page about the run."""
    from learner.cli.report.report import write_report

    with one_line_errors():
        typer.echo(str(write_report(RunDirectory.existing(run))))


@app.command("fit-radii")
def fit_radii(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run directories, healthy and collapsed ones.")],
    mean: Annotated[
        bool, typer.Option("--mean", help='For lr_control.staleness = "mean": S is the mean over tokens.')
    ] = False,
) -> None:
    """Estimates the radii of the staleness-aware learning rate from finished runs."""
    from learner.cli.report import fit_radii as radii

    with one_line_errors():
        trials = [radii.read_trial(run, "mean" if mean else "max") for run in runs]
    typer.echo("\n".join(radii.describe(trials, *radii.fit(trials))))


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()

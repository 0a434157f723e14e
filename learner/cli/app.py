"""The `leeway` command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.fleet import fleet
from learner.cli.layout import RunDirectory, RunError
from learner.cli.policy import policy
from runtime.settings import SettingsError

app = typer.Typer(
    help="Asynchronous post-training of language models: many rollout fleets, one learner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(policy, name="policy")
app.add_typer(fleet, name="fleet")

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
    from learner.cli.run import run_to_end

    with _one_line_errors():
        status = run_to_end(config, set_ or [], resume, Console())
    raise typer.Exit(status)


@app.command()
def status(run: _Run) -> None:
    """Shows a run as it stands: its numbers and its processes."""
    from learner.cli.status import print_status

    with _one_line_errors():
        print_status(Console(), RunDirectory.existing(run))


@app.command()
def ledger(
    run: _Run,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 and the difference unless the law holds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    only: Annotated[str | None, typer.Option("--fleet", metavar="NAME", help="One fleet's account only.")] = None,
) -> None:
    """Shows each fleet's account: every group ever received, and what became of it."""
    from learner.cli.ledger import ledger_tables, ledgers_of, violations
    from learner.cli.summary import ledger_row

    with _one_line_errors():
        ledgers = ledgers_of(RunDirectory.existing(run), only)
    if as_json:
        typer.echo(json.dumps([ledger_row(ledger) for ledger in ledgers], indent=2))
    else:
        Console().print(ledger_tables(ledgers))
    if not check:
        return
    broken = violations(ledgers)
    for violation in broken:
        typer.echo(f"the law is broken: {violation}", err=True)
    if not broken and not as_json:
        typer.echo(f"the law holds for {len(ledgers)} fleet{'s' if len(ledgers) != 1 else ''}")
    raise typer.Exit(1 if broken else 0)


@app.command()
def report(run: _Run) -> None:
    """Writes RUN/report.html: a self-contained page about the run."""
    from learner.cli.report import write_report

    with _one_line_errors():
        typer.echo(str(write_report(RunDirectory.existing(run))))


@app.command("fit-radii")
def fit_radii(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run directories, healthy and collapsed ones.")],
    mean: Annotated[
        bool, typer.Option("--mean", help='For lr_control.staleness = "mean": S is the mean over tokens.')
    ] = False,
) -> None:
    """Estimates the radii of the staleness-aware learning rate from finished runs."""
    from learner.cli import radii

    with _one_line_errors():
        trials = [radii.read_trial(run, "mean" if mean else "max") for run in runs]
    typer.echo("\n".join(radii.describe(trials, *radii.fit(trials))))


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """A mistake of the caller ends the command with one clear line and status 2."""
    from learner.queue import QueueError

    try:
        yield
    except (SettingsError, RunError, QueueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()

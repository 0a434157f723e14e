"""The `leeway` command and its subcommands.

Subcommands import what they need when they are called, so that `leeway --help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.operate.backup_command import backup, restore
from learner.cli.operate.commands import list_, logs, stop, task
from learner.cli.operate.conformance import conformance
from learner.cli.operate.ctl import ctl
from learner.cli.operate.evaluate_command import eval_
from learner.cli.operate.export_command import export
from learner.cli.operate.fleet import fleet
from learner.cli.operate.numbers import evaluations, ledger, status
from learner.cli.operate.policy import policy
from learner.cli.operate.quarantine import quarantine
from learner.cli.operate.queue import queue
from learner.cli.operate.rewards import rewards
from learner.cli.report.compare_command import compare
from learner.cli.rollouts.commands import replay, rollouts
from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import RunCommand
from learner.cli.run.run_directory import RunDirectory
from learner.cli.settings.commands import completion, config, options

app = typer.Typer(
    help="Asynchronous post-training of language models: many rollout fleets, one learner.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(cls=RunCommand)(backup)
app.command("restore")(restore)
app.add_typer(ctl, name="ctl")
app.add_typer(policy, name="policy")
app.add_typer(fleet, name="fleet")
app.add_typer(quarantine, name="quarantine")
app.add_typer(queue, name="queue")
app.add_typer(conformance, name="conformance")
app.add_typer(rollouts, name="rollouts")

app.callback()(options)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]


@app.command()
def up(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A run file (TOML), or with --resume a run's directory.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped.")] = False,
) -> None:
    """Starts all processes of a run on this machine, shows its progress, and stops them cleanly."""
    from learner.cli.up.up import run_to_end

    with one_line_errors():
        status = run_to_end(config, set_ or [], resume, Console())
    raise typer.Exit(status)


@app.command()
def prepare(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A run file (TOML), or the directory of a run that goes on.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option("--redis", metavar="HOST:PORT", help="Write redis.conf for a server of this run at that address."),
    ] = None,
) -> None:
    """Writes a run's directory for a scheduler that starts its processes: tokens, and the settings file of each."""
    from learner.cli.up.scheduled import prepare_scheduled

    with one_line_errors():
        for path in prepare_scheduled(config, set_ or [], redis):
            typer.echo(str(path))


@app.command()
def doctor(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A run file, or the settings file of a gateway, learner or worker.")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="URI", help="For a worker's file: the URI at which it sees the learner's publish.dir."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Checks settings, machine and services before a run. Exits with 1 if a check fails."""
    from learner.cli.doctor import examine

    findings = []
    for finding in examine(config, set_ or [], weights):
        findings.append(finding)
        if not as_json:
            typer.echo(finding.line)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    raise typer.Exit(1 if any(finding.state == "fail" for finding in findings) else 0)


app.command(cls=RunCommand)(status)
app.command(cls=RunCommand)(ledger)
app.command(cls=RunCommand)(evaluations)


@app.command()
def report(run: _Run) -> None:
    """Writes RUN/report.html, a self-contained page about the run."""
    from learner.cli.report.report import write_report

    with one_line_errors():
        typer.echo(str(write_report(RunDirectory.existing(run))))


app.command("export")(export)
app.command("compare")(compare)
app.command("replay")(replay)
app.command("rewards")(rewards)
app.command("logs")(logs)
app.command("stop")(stop)
app.command("list")(list_)
app.command("task")(task)
app.command("config")(config)
app.command("completion")(completion)
app.command("eval")(eval_)


def main() -> None:
    """Runs the `leeway` command."""
    app()


if __name__ == "__main__":
    main()

"""The commands `leeway logs`, `leeway stop`, `leeway list` and `leeway task`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]


def logs(
    run: _Run,
    process: Annotated[
        str | None, typer.Argument(metavar="PROCESS", help="gateway, learner, worker-0, redis, ...; default: all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log to begin with.")] = 20,
) -> None:
    """Prints the last lines of the logs of a run's processes."""
    from learner.cli.operate.logs import followed_logs, shown_logs

    with one_line_errors():
        directory = RunDirectory.existing(run)
        found = followed_logs(directory, process, lines) if follow else shown_logs(directory, process, lines)
        try:
            for line in found:
                typer.echo(line)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def stop(
    run: _Run,
    wait_s: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            help="Then end it at once, without a checkpoint; default: its learner.stop_grace_s and 30 s.",
        ),
    ] = None,
) -> None:
    """Stops a run that is in progress, as Ctrl-C does where it was started. Exits with 1 if it goes on."""
    from learner.cli.operate.stop import stop_run

    with one_line_errors():
        ended = stop_run(RunDirectory.existing(run), wait_s, typer.echo)
    raise typer.Exit(0 if ended else 1)


def list_(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the runs are.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lists the runs of a directory, the newest first: state, step, reward."""
    from rich.console import Console

    from learner.cli.operate.listing import list_json, list_table, runs_in

    with one_line_errors():
        found = runs_in(directory)
    if as_json:
        typer.echo(list_json(found))
    else:
        Console().print(list_table(found) if found else f"no run in {directory}", highlight=False)


def task(
    name: Annotated[
        str,
        typer.Argument(metavar="TASK", help="A task's name, or the label of one in CONFIG; default: all of CONFIG."),
    ] = "",
    config: Annotated[Path | None, typer.Option("--config", metavar="CONFIG", help="A run file (TOML).")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    count: Annotated[int, typer.Option("--number", "-n", min=1, help="Prompts of each task.")] = 3,
    response: Annotated[
        list[str] | None, typer.Option("--response", metavar="TEXT", help="Judge this too; may be repeated.")
    ] = None,
    limit_s: Annotated[float, typer.Option("--limit", metavar="SECONDS", help="Give up after this long.")] = 300.0,
) -> None:
    """Shows a task: prompts, their token ids, and the rewards of a right answer and of given responses."""
    from learner.cli.operate.task import TaskLook, look_at_task

    with one_line_errors():
        look = TaskLook(name, config, set_ or [], count, response or [], limit_s)
        status = look_at_task(look, typer.echo)
    raise typer.Exit(status)

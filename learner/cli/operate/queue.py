"""`leeway queue`: shows why a run's queue is halted, and lets it go on with what is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory, RunError

if TYPE_CHECKING:
    from learner.config import QueueConfig

queue = typer.Typer(help="Shows why a queue is halted, and lets it go on.", no_args_is_help=True)

_Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run's directory, such as runs/demo; or the learner's settings file (TOML or JSON), beside its directories.",
    ),
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Changes a setting of the learner's file; may be repeated."
    ),
]


@queue.command()
def status(run: _Run, set_: _Set = None) -> None:
    """Says whether the queue is halted, and why; exits with 1 if it is."""
    from learner.queue.acceptance import HaltedQueue

    with one_line_errors(), _learner_of(run, set_ or ()) as (config, *_), HaltedQueue(config) as halted:
        halt = halted.halt()
    typer.echo("the queue is not halted" if halt is None else halt.describe(config.run))
    raise typer.Exit(0 if halt is None else 1)


@queue.command()
def accept(
    run: _Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    set_: _Set = None,
) -> None:
    """Lets a halted queue go on with the data that is in Redis: what is missing there is given up, and counted."""
    from learner.cli.operate.trained_record import trained_steps
    from learner.queue.acceptance import HaltedQueue
    from learner.queue.witness import MOVED

    with (
        one_line_errors(),
        _learner_of(run, set_ or ()) as (config, checkpoints, metrics),
        HaltedQueue(config) as halted,
    ):
        halt = halted.halt()
        if halt is None:
            typer.echo("the queue is not halted")
            return
        typer.echo(halt.describe(config.run))
        if halt.reason == MOVED:
            typer.echo("If it has been restored elsewhere, two learners would train the same groups.", err=True)
        typer.echo("\n".join(_losses(halt.known.accepted, halt.found.accepted)))
        steps = list(trained_steps(checkpoints, metrics))
        known = sum(len(one.groups) for one in steps)
        typer.echo(f"the newest checkpoint's weights contain {known:,} groups, by the learner's record")
        if known < sum(halt.found.trained.values()):
            typer.echo("that is less than Redis says: groups that came back may be trained twice", err=True)
        if not yes and not typer.confirm("Go on with the data that is in Redis now?"):
            raise typer.Exit(1)
        done = halted.accept(halt, steps)
    typer.echo(f"{done.returned:,} groups had come back and are trained already: finished")
    typer.echo(f"{done.restored:,} trained groups were forgotten: counted again")
    typer.echo(f"{sum(done.vanished.values()):,} groups are missing at most: counted as vanished")
    typer.echo("the queue goes on; start the learner again if it has ended (on one machine: leeway up RUN --resume)")


@contextlib.contextmanager
def _learner_of(run: Path, overrides: Sequence[str]) -> Iterator[tuple[QueueConfig, Path, Path]]:
    """Yields the settings of the queue, and the directories of the learner's checkpoints and of its metrics."""
    from learner.cli.run.queue import queue_of

    if run.is_file():
        from learner.config import LearnerConfig

        config = LearnerConfig.load(run, overrides)
        yield config.queue, config.checkpoint.dir, config.metrics_dir
        return
    if overrides:
        raise RunError(f"--set {overrides[0]}: only with the learner's settings file; {run} is none")
    directory = RunDirectory.existing(run)
    with queue_of(directory) as queue_config:
        yield queue_config, directory.checkpoints, directory.metrics


def _losses(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[str]:
    for fleet, accepted in sorted(before.items()):
        yield f"fleet {fleet}: {accepted:,} groups were accepted, Redis knows of {after.get(fleet, 0):,}"

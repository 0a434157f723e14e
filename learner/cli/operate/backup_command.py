"""The commands `leeway backup` and `leeway restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from learner.cli.operate.ctl import change
from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import Run
from leeway.v1 import operator_pb2

_LIMIT_S = 6 * 3600.0


def backup(
    run: Run,
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Where to: s3://bucket/path, file:///path, ..., or a directory.")
    ],
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", metavar="N", min=1, help="Then remove the oldest complete backups of this run beyond N."
        ),
    ] = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help="The run moves: it goes on where the backup is restored, and can neither train nor accept groups here any "
            "more. It must be stopped, or with --gateway paused.",
        ),
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="With --gateway: wait no longer.")
    ] = _LIMIT_S,
) -> None:
    """Copies everything that a run needs to go on elsewhere to URI, while it is in progress or not.

    With --gateway the learner does it, which sees no identities and no cursors; URI is a place that it reaches.
    """
    from learner.cli.operate.backup import back_up_run, move_run

    with one_line_errors():
        if run.target is not None:
            wanted = operator_pb2.BackUp(uri=uri, keep=keep or 0, final=final)
            change(run, operator_pb2.Change(backup=wanted), True, timeout_s)
        written = (move_run if final else back_up_run)(run.directory(), uri, keep, _note)
    typer.echo(written.describe())
    if final:
        typer.echo(f"the run has moved, and does not go on here; there: leeway restore {written.uri} DIR")


def restore(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="A backup, or where backups are: then the newest complete one.")
    ],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The run's new directory; it must be empty, or not exist.")
    ],
    queue_url: Annotated[
        str | None,
        typer.Option(
            "--queue-url", metavar="URL", help="Write the queue into this Redis; default: as the run file says."
        ),
    ] = None,
    queue_only: Annotated[
        bool,
        typer.Option("--queue-only", help="DIR is a stopped run whose Redis is empty: write the queue alone into it."),
    ] = False,
) -> None:
    """Makes a run's directory of a backup, every digest verified; `leeway up DIR --resume` goes on from there."""
    from learner.cli.operate.backup import restore_queue, restore_run
    from learner.cli.run.run_directory import RunDirectory

    if queue_only and queue_url is not None:
        raise typer.BadParameter(
            "--queue-url: not with --queue-only, which writes into the Redis that DIR's run file names"
        )
    with one_line_errors():
        if queue_only:
            done = restore_queue(uri, RunDirectory.existing(directory), _note)
        else:
            done = restore_run(uri, directory, queue_url, _note)
    for name, why in done.manifest.left_out.items():
        typer.echo(f"not in the backup: {name}: {why}", err=True)
    typer.echo(
        f"{directory}: {done.keys:,} keys of the queue, {len(done.manifest.files):,} files; {done.manifest.account()}. What "
        "was accepted or trained after the backup is not in it"
    )
    if done.whole:
        typer.echo(f"go on with: leeway up {directory} --resume")
    else:
        typer.echo(
            "a learner's backup: put checkpoints, weights and metrics where its settings (learner.json) say, and start it"
        )


def _note(line: str) -> None:
    typer.echo(line, err=True)

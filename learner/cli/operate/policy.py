"""`leeway policy`: shows, verifies, compares, pins and rolls back the versions that a run has published."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import DiskCommand, Run, RunCommand
from learner.publish.catalog import CatalogError, read_manifest
from runtime.version_format.names import version_name, versions_on_disk

policy = typer.Typer(help="Shows, verifies and manages the versions that a run has published.", no_args_is_help=True)

_Version = Annotated[int, typer.Argument(metavar="VERSION", min=0, help="The number of a version.")]


@policy.command("list", cls=RunCommand)
def list_(run: Run) -> None:
    """Lists every version: step, size, kind, whether it is pinned or the best, what it is worth, who runs it."""
    from learner.cli.operate.opened_run import reading
    from learner.cli.operate.version_rows import version_table

    with one_line_errors(), reading(run) as operations:
        rows = operations.versions()
    Console().print(version_table(rows))


@policy.command(cls=DiskCommand)
def show(run: Run, version: _Version) -> None:
    """Prints a version's manifest, and the versions from which its tensors are built."""
    from google.protobuf import json_format

    from learner.cli.operate.opened_version import opened_version

    with one_line_errors():
        contents = opened_version(run.directory(), version)
    typer.echo(json_format.MessageToJson(contents.manifest, preserving_proto_field_name=True))
    typer.echo(f"built from {' + '.join(map(str, contents.chain))}; {len(contents.names())} tensors")


@policy.command(cls=DiskCommand)
def verify(
    run: Run,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=0, help="The number of a version; default: all.")
    ] = None,
) -> None:
    """Verifies the checksums of every file, and of a delta's result too. Exits with 1 if one is wrong."""
    from learner.cli.operate.opened_version import opened_version
    from learner.publish.reader import wrong_files

    broken = 0
    with one_line_errors():
        directory = run.directory()
        root = directory.weights
        for number in versions_on_disk(root) if version is None else [version]:
            try:
                wrong = [str(fault) for fault in wrong_files(root, read_manifest(root, number))]
                wrong = wrong or list(opened_version(directory, number).wrong_results())
            except CatalogError as error:
                if version is not None:
                    raise
                wrong = [str(error)]
            broken += bool(wrong)
            typer.echo(f"{version_name(number)}  {'; '.join(wrong) or 'ok'}")
    raise typer.Exit(1 if broken else 0)


@policy.command(cls=DiskCommand)
def diff(run: Run, old: _Version, new: _Version) -> None:
    """Compares two versions, tensor by tensor: the share of elements whose bits changed, and the largest change."""
    import numpy as np

    from learner.cli.operate.opened_version import opened_version

    with one_line_errors():
        before, after = (opened_version(run.directory(), version) for version in (old, new))
        if before.names() != after.names() or before.manifest.dtype != after.manifest.dtype:
            raise CatalogError(f"versions {old} and {new} differ in tensor names or dtype: they cannot be compared")
        changed = total = 0
        table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("tensor")
        for name in ("elements", "changed", "largest change"):
            table.add_column(name, justify="right")
        for name in before.names():
            differ = before.bits(name) != after.bits(name)
            count = int(differ.sum())
            change = np.abs(after.floats(name)[differ] - before.floats(name)[differ]).max() if count else 0.0
            table.add_row(name, f"{differ.size:,}", f"{count / max(1, differ.size):.2%}", f"{change:.3g}")
            changed, total = changed + count, total + differ.size
    Console().print(table)
    typer.echo(f"{changed:,} of {total:,} elements ({changed / max(1, total):.2%}) differ between {old} and {new}")


@policy.command(cls=RunCommand)
def pin(
    run: Run,
    version: _Version,
    off: Annotated[
        bool, typer.Option("--off", help="Remove the pin, so that retention may remove the version.")
    ] = False,
) -> None:
    """Pins a version: it and the versions that it is a delta of are not removed by retention."""
    from learner.cli.operate.opened_run import changing

    with one_line_errors(), changing(run) as operations:
        settled = operations.pin(version, off)
    typer.echo("\n".join(settled.lines))
    raise typer.Exit(settled.exit_status)


@policy.command(cls=RunCommand)
def rollback(run: Run, version: _Version) -> None:
    """Goes on from the newest checkpoint at or before VERSION, as a new timeline: at once, or at the run's next start.

    A run in progress does it as `leeway ctl rollback` does. Of another, the next `leeway up RUN --resume` does it.
    """
    from learner.cli.operate.opened_run import changing

    with one_line_errors(), changing(run) as operations:
        settled = operations.roll_back(version)
    typer.echo("\n".join(settled.lines))
    raise typer.Exit(settled.exit_status)

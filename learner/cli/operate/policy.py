"""`leeway policy`: shows, verifies, compares, pins and rolls back the versions that a run has published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory
from learner.publish.catalog import PINNED, POINTER, CatalogError, pinned, read_manifest
from leeway.v1 import rollout_pb2
from runtime.version_format.names import version_name, versions_on_disk

policy = typer.Typer(help="Shows, verifies and manages the versions that a run has published.", no_args_is_help=True)

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")]
_Version = Annotated[int, typer.Argument(metavar="VERSION", min=0, help="The number of a version.")]


@policy.command("list")
def list_(run: _Run) -> None:
    """Lists every version on disk: step, size, kind, whether it is pinned or the best, what it is worth, who runs it."""
    from learner.cli.operate.publications import publications_of

    with one_line_errors():
        directory = RunDirectory.existing(run)
        known = publications_of(directory)
        pointer = directory.weights / POINTER
        newest = pointer.read_text().strip() if pointer.is_file() else ""
        table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
        for name in ("version", "step", "epoch", "bytes"):
            table.add_column(name, justify="right")
        for name in ("kind", "published", "state", "run by", "evaluated"):
            table.add_column(name)
        for version in versions_on_disk(directory.weights):
            try:
                manifest = read_manifest(directory.weights, version)
            except CatalogError as error:
                table.add_row(f"{version:,}", "", "", "", "unreadable", "", str(error))
                continue
            kind = f"delta of {manifest.base_version}" if manifest.HasField("base_version") else "full"
            states = ["newest"] if str(version) == newest else []
            states += ["pinned"] if version in pinned(directory.weights) else []
            states += ["best"] if known is not None and version == known.best else []
            states += [] if known is None or version in known.registered else ["orphan"]
            numbers = (version, manifest.step, manifest.epoch, sum(file.size for file in manifest.files))
            when = f"{manifest.published_at.ToDatetime():%Y-%m-%d %H:%M:%S}"
            running = "?" if known is None else ", ".join(known.running.get(version, []))
            worth = "?" if known is None else "; ".join(map(_worth, known.evaluations.get(version, [])))
            table.add_row(*(f"{number:,}" for number in numbers), kind, when, ", ".join(states), running, worth)
    Console().print(table)


def _worth(evaluation: rollout_pb2.Evaluation) -> str:
    """An evaluation's mean reward in a few words; its first metric, if it has none."""
    names = sorted(evaluation.metrics, key=lambda name: (not name.startswith("mean@"), name))
    return f"{evaluation.name} {evaluation.sampling} {evaluation.metrics[names[0]].value:.3f}"


@policy.command()
def show(run: _Run, version: _Version) -> None:
    """Prints a version's manifest, and the versions from which its tensors are built."""
    from google.protobuf import json_format

    from learner.publish.reader import VersionReader

    with one_line_errors():
        contents = VersionReader(RunDirectory.existing(run).weights, version)
    typer.echo(json_format.MessageToJson(contents.manifest, preserving_proto_field_name=True))
    typer.echo(f"built from {' + '.join(map(str, contents.chain))}; {len(contents.names())} tensors")


@policy.command()
def verify(
    run: _Run,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=0, help="The number of a version; default: all.")
    ] = None,
) -> None:
    """Verifies the checksums of every file, and of a delta's result too. Exits with 1 if one is wrong."""
    from learner.publish.reader import VersionReader, wrong_files

    broken = 0
    with one_line_errors():
        root = RunDirectory.existing(run).weights
        for number in versions_on_disk(root) if version is None else [version]:
            try:
                wrong = [str(fault) for fault in wrong_files(root, read_manifest(root, number))]
                wrong = wrong or list(VersionReader(root, number).wrong_results())
            except CatalogError as error:
                if version is not None:
                    raise
                wrong = [str(error)]
            broken += bool(wrong)
            typer.echo(f"{version_name(number)}  {'; '.join(wrong) or 'ok'}")
    raise typer.Exit(1 if broken else 0)


@policy.command()
def diff(run: _Run, old: _Version, new: _Version) -> None:
    """Compares two versions, tensor by tensor: the share of elements whose bits changed, and the largest change."""
    import numpy as np

    from learner.publish.reader import VersionReader

    with one_line_errors():
        root = RunDirectory.existing(run).weights
        before, after = VersionReader(root, old), VersionReader(root, new)
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


@policy.command()
def pin(
    run: _Run,
    version: _Version,
    off: Annotated[
        bool, typer.Option("--off", help="Remove the pin, so that retention may remove the version.")
    ] = False,
) -> None:
    """Pins a version: it and the versions that it is a delta of are not removed by retention."""
    with one_line_errors():
        root = RunDirectory.existing(run).weights
        mark = root / PINNED / f"{version:06d}"
        if off:
            mark.unlink(missing_ok=True)
        else:
            read_manifest(root, version)
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
    typer.echo(f"{version_name(version)} is {'no longer ' if off else ''}pinned")


@policy.command()
def rollback(run: _Run, version: _Version) -> None:
    """Makes the next `leeway up RUN --resume` continue from the newest checkpoint at or before VERSION, as a new timeline."""
    from learner.cli.operate.rollback import roll_back

    with one_line_errors():
        done = roll_back(RunDirectory.existing(run), version)
    typer.echo(f"the run will continue from {done.checkpoint.name}, step {done.step}")
    if done.aside:
        lost = "an unknown number of" if done.lost is None else f"{done.lost:,}"
        typer.echo(f"set aside: {', '.join(done.aside)}")
        typer.echo(
            f"{lost} groups trained between step {done.step} and {done.newest_step} are not in these weights; those that are "
            "still in the queue are trained again, the others stay counted as trained"
        )

"""The command `leeway export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_directory import RunDirectory


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; it must be empty, or not exist.")],
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="best, last, or the number of a version.")
    ] = "last",
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="DTYPE", help="float32 or bfloat16; default: as published.")
    ] = None,
) -> None:
    """Writes a version as a Hugging Face directory, deltas merged, every digest verified: weights, tokenizer, settings."""
    from learner.cli.operate.export import export as write
    from learner.cli.view.outcome import load_lines, serve_command

    with one_line_errors():
        done = write(RunDirectory.existing(run), version, directory, dtype)
    chain = f"; built from versions {', '.join(map(str, done.chain))}" if len(done.chain) > 1 else ""
    typer.echo(f"version {done.version} (step {done.step}{chain}): {done.size:,} bytes, {done.dtype}, in {directory}")
    typer.echo(load_lines(str(directory)))
    typer.echo(serve_command(str(directory)))

"""The command `leeway eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors


def eval_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A run's directory, or any Hugging Face directory of a model.")
    ],
    version: Annotated[
        int | None, typer.Option("--version", metavar="V", min=0, help="A version of the run; default: its newest.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="T",
            help="A task of the run, a built-in one, or module:Class; may be repeated. Default: what the run evaluates.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="K", min=1, help="Responses per prompt: 1 is greedy, more at temperature 1."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Changes a setting, such as prompts=64; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Append the results to this file, as JSON lines.")
    ] = None,
) -> None:
    """Measures what a version or a model is worth on a task: mean@k, pass@k, lengths, with intervals. Needs no gateway."""
    from learner.cli.operate.evaluate import EvaluationWish, evaluate

    with one_line_errors():
        evaluate(EvaluationWish(source, version, task or (), samples, set_ or ()), Console(), out)

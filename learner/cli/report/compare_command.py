"""The command `leeway compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learner.cli.run.errors import one_line_errors
from learner.cli.view.text import printable


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Directories of two runs or more.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where the page with the curves goes; default: compare.html."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and write the page only if --out names it.")
    ] = False,
) -> None:
    """Compares runs: settings that differ, rewards, evaluations, speed and cost, and a page with their curves overlaid."""
    from learner.cli.report import comparison
    from learner.cli.report.comparison_page import write_comparison  # imports matplotlib

    page = out or (None if as_json else Path("compare.html"))
    with one_line_errors():
        compared = comparison.read_runs(runs)
        found = [comparison.numbers(one) for one in compared]
        settings = comparison.differing(compared)
        if page is not None:
            write_comparison(compared, page)
    if as_json:
        typer.echo(json.dumps({"runs": found, "settings": settings}, indent=2))
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("", *(one.label for one in compared)):
        table.add_column(Text(printable(name)), overflow="fold")
    for name, cells in [*comparison.table_rows(found), *settings.items()]:
        table.add_row(*(Text(printable(text)) for text in (name, *cells)))
    Console().print(table)
    typer.echo(f"curves: {page}")

"""What came of a run, as text for a terminal: evaluations before and after, and the versions to load."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_history import Row
from learner.cli.view.text import interval, printable


def print_evaluations(console: Console, changes: Sequence[Row]) -> None:
    """Prints each evaluation of the first and of the last version that was evaluated, with 95 % intervals.

    Args:
        console: where.
        changes: summary.json's ``evaluations``; nothing is printed where there are none.
    """
    if not changes:
        return
    console.print(Rule("before and after, with 95 % intervals", align="left", style="dim"))
    for row in changes:
        samples = f" × {row['samples']} responses" if row["samples"] > 1 else ""
        console.print(
            Text(printable(f"{row['name']}, {row['sampling']}: {row['metric']}, {row['prompts']:,} prompts{samples}"))
        )
        before, after = (f"v{row[which]['version']} {interval(*_estimate(row[which]))}" for which in ("first", "last"))
        console.print(Text(f"  {before} → {after}: {verdict(row)}"))


def verdict(change: Row) -> str:
    """The difference of an evaluation, with its interval where every prompt can be compared with itself.

    Else it says what the intervals of each version alone say. On the same prompts the difference is known better than they
    say, so intervals that overlap do not show that there is no difference.
    """
    difference = f"{change['difference']:+.3f}"
    if not change["same_size"]:
        return f"{difference}, not on the same prompts"
    if (gain := change["gain"]) is not None:
        return f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}], prompt by prompt"
    return f"{difference}, intervals {'overlap' if change['intervals_overlap'] else 'apart'}"


def print_worth(console: Console, run: Path, name: str, worth: Row) -> None:
    """Prints the best and the last version with their paths, and the commands that export, load and serve one.

    Args:
        console: where.
        run: the run's directory, as the user would type it.
        name: the run's name; an exported directory is called after it.
        worth: summary.json's ``worth``.
    """
    best, last = worth["best"], worth["last"]
    if last is None:
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")  # a path that is cut off is worth nothing
    if best is not None:
        why = f"{best['metric']} {best['value']:.3f} on {best['name']}, {best['sampling']}"
        title = "best, last" if best["version"] == last["version"] else "best"
        table.add_row(title, Text(printable(f"version {best['version']} ({why})\n{_place(best, run)}")))
    if best is None or best["version"] != last["version"]:
        table.add_row("last", Text(f"version {last['version']}\n{_place(last, run)}"))
    chosen = best if best is not None and best["path"] else last
    directory = f"{name}-v{chosen['version']}"
    table.add_row("export", Text(export_command(run, chosen["version"], directory)))
    table.add_row("load", Text(load_lines(directory)))
    table.add_row("serve", Text(serve_command(directory)))
    console.print(Rule("what it is worth", align="left", style="dim"))
    console.print(table)


def export_command(run: Path, version: int, directory: str) -> str:
    """The command that writes a version as a Hugging Face directory."""
    return shlex.join(["leeway", "export", str(run), "--version", str(version), directory])


def load_lines(directory: str) -> str:
    """The Python lines that load an exported directory in transformers."""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({directory!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({directory!r})"
    )


def serve_command(directory: str) -> str:
    """The command that serves an exported directory with SGLang."""
    return shlex.join(["python", "-m", "sglang.launch_server", "--model-path", directory])


def _estimate(row: Row) -> tuple[float, float, float]:
    return row["value"], row["low"], row["high"]


def _place(version: Row, run: Path) -> str:
    if version["path"] is None:
        return "no longer on disk: raise learner.publish.keep, or pin versions with leeway policy pin"
    path = RunDirectory(run).weights / Path(version["path"]).name
    return f"{path}{'' if version['loads'] else ' (a delta: export it)'}"

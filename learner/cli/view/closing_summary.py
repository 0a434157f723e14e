"""What `leeway up` prints when a run ends: its numbers, sample responses and the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_history import Row, read_samples
from learner.cli.run.summary import Summary
from learner.cli.view.ledger import ledger_tables
from learner.cli.view.text import duration, number
from leeway.v1 import rollout_pb2

_SAMPLES = 4


def print_summary(console: Console, summary: Summary) -> None:
    """Prints the most important numbers of summary.json, and its warnings."""
    phases = " · ".join(f"{name.replace('_', ' ')} {duration(seconds)}" for name, seconds in summary["phases"].items())
    rows = [
        ("steps", f"{summary['steps']} in {duration(summary['wall_s'])} ({phases})"),
        ("reward", f"{number(summary['reward_first10'])} first 10 → {number(summary['reward_last20'])} last 20"),
        ("staleness", f"mean {number(summary['staleness_mean'])}, max {number(summary['staleness_max'], 0)} steps"),
        (
            "groups",
            f"{summary['groups_trained']:,} trained, of them {summary['groups_late']:,} late; "
            f"{summary['groups_expired']:,} expired",
        ),
        ("tokens", f"{summary['tokens_generated']:,} generated, {summary['tokens_trained']:,} trained"),
        ("versions", f"{summary['versions_published']} published"),
        (
            "time per step",
            f"{number(summary['seconds_per_step'])} s, of which waiting {_percent(summary['wait_share'])}",
        ),
    ]
    if (exceeded := summary.get("rho_exceeded")) is not None:
        rows.append(("rho", f"above twice rho_max in {exceeded:.1%} of the steps"))
    restarts = ", ".join(f"{name} {count}" for name, count in summary["restarts"].items() if count)
    if restarts:
        rows.append(("restarts", restarts))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    for name, text in rows:
        table.add_row(name, text)
    console.print(Rule("summary", align="left", style="dim"))
    console.print(table)
    print_warnings(console, summary)


def print_warnings(console: Console, summary: Summary) -> None:
    """Prints a line for each way in which the run came to nothing."""
    for warning in summary.get("warnings", []):  # an older release wrote none
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)


def print_samples(console: Console, run: RunDirectory) -> None:
    """Prints a few responses of the earliest version beside a few of the latest. Raises OSError."""
    before, after = first_and_last(read_samples(run.state), _SAMPLES)
    if not before:
        return
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column(f"before (version {before[0]['version']})")
    table.add_column("reward", justify="right")
    if after:
        table.add_column(f"after (version {after[-1]['version']})")
        table.add_column("reward", justify="right")
    for index in range(max(len(before), len(after))):
        cells = []
        for rows in (before, after) if after else (before,):
            row = rows[index] if index < len(rows) else None
            cells += [f"{escape(shorten(row))}", f"{row['reward']:.2f}"] if row else ["", ""]
        table.add_row(*cells)
    console.print(Rule("samples", align="left", style="dim"))
    console.print(table)


def print_ledger(console: Console, ledgers: Sequence[rollout_pb2.Ledger]) -> None:
    """Prints the ledger of every fleet."""
    console.print(Rule("ledger", align="left", style="dim"))
    console.print(ledger_tables(ledgers))


def first_and_last(samples: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Up to ``count`` samples of the earliest version, and the ``count`` samples of the latest versions, oldest first.

    The second list is empty while there are samples of one version only.
    """
    versions = sorted({row["version"] for row in samples})
    if not versions:
        return [], []
    first = [row for row in samples if row["version"] == versions[0]][:count]
    later = sorted((row for row in samples if row["version"] > versions[0]), key=lambda row: row["version"])
    return first, later[-count:]


def shorten(row: Row, limit: int = 72) -> str:
    """Puts the prompt and the response of a sample on one line of at most ``limit`` characters, without its middle part."""
    text = f"{row['prompt']} {row['response']}".replace("\n", "⏎")
    head = limit // 2
    return text if len(text) <= limit else f"{text[:head]}…{text[head + 1 - limit :]}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"

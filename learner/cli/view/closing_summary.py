"""What `leeway up` prints when a run ends: warnings first, its numbers, what came of it, and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from learner.cli.run.run_history import Row
from learner.cli.run.summary import Summary
from learner.cli.view.ledger import ledger_tables
from learner.cli.view.outcome import print_evaluations, print_worth
from learner.cli.view.text import duration, number
from leeway.v1 import rollout_pb2


def print_summary(console: Console, summary: Summary, run: Path) -> None:
    """Prints summary.json: warnings, evaluations before and after, the most important numbers, what the run is worth.

    Args:
        console: where.
        summary: the summary.
        run: the run's directory, as the user would type it.
    """
    console.print(Rule("summary", align="left", style="dim"))
    print_warnings(console, summary)
    print_evaluations(console, summary["evaluations"])
    phases = " · ".join(f"{name.replace('_', ' ')} {duration(seconds)}" for name, seconds in summary["phases"].items())
    made = summary["tokens_generated"]  # by workers of this machine: a run of fleets elsewhere knows no such number
    generated = f"{made:,} generated, " if made else ""
    rows = [
        ("steps", f"{summary['steps']} in {duration(summary['wall_s'])} ({phases})"),
        (
            "sampled reward",  # of training: on other prompts at every step, so no measure of what was learned
            f"{number(summary['reward_first10'])} first 10 steps → {number(summary['reward_last20'])} last 20, "
            "on ever new prompts",
        ),
        ("staleness", f"mean {number(summary['staleness_mean'])}, max {number(summary['staleness_max'], 0)} steps"),
        (
            "groups",
            f"{summary['groups_trained']:,} trained, of them {summary['groups_late']:,} late; "
            f"{summary['groups_expired']:,} expired",
        ),
        ("tokens", f"{generated}{summary['tokens_trained']:,} trained"),
        ("versions", f"{summary['versions_published']} published{_averaged(summary['average'])}"),
        (
            "time per step",
            f"{number(summary['seconds_per_step'])} s, of which waiting {_percent(summary['wait_share'])}",
        ),
    ]
    if (truncated := summary["truncated"]) is not None:
        rows.append(("truncated", f"{truncated:.1%} of the responses"))
    if (found := summary["governed"]) is not None:
        rows.append(("learning rate", _governed(found)))
    if (exceeded := summary.get("rho_exceeded")) is not None:
        rows.append(("rho", f"above twice rho_max in {exceeded:.1%} of the steps"))
    restarts = ", ".join(f"{name} {count}" for name, count in summary["restarts"].items() if count)
    if restarts:
        rows.append(("restarts", restarts))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    for name, text in rows:
        table.add_row(name, text)
    console.print(table)
    print_worth(console, run, summary["name"], summary["worth"])


def print_warnings(console: Console, summary: Summary) -> None:
    """Prints a line for each way in which the run came to nothing."""
    for warning in summary["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)


def print_ledger(console: Console, ledgers: Sequence[rollout_pb2.Ledger]) -> None:
    """Prints the ledger of every fleet."""
    console.print(Rule("ledger", align="left", style="dim"))
    console.print(ledger_tables(ledgers))


def _averaged(decay: float) -> str:
    return f", each an average of the weights ({decay:g} a step)" if decay else ""


def _governed(found: Row) -> str:
    """What became of a learning rate with a ceiling, in a line."""
    drift = "" if found["drift"] is None else f"; measured drift {found['drift']:.3f} nats/token"
    return (
        f"{found['first']:.1e} → {found['last']:.1e}, {found['share']:.0%} of its ceiling; below it in "
        f"{found['bounded']:.0%} of the steps{drift}"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"

"""`leeway --gateway HOST:PORT status`: what a gateway knows of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from learner.cli.operate.evaluation_table import last_lines
from learner.cli.run.evaluations import Evaluation
from learner.cli.run.summary import ledger_row
from learner.cli.view.in_force import in_force_rows
from learner.cli.view.ledger import ledger_line
from learner.cli.view.text import duration, number, printable
from leeway.v1 import operator_pb2, rollout_pb2

# Numbers of the last step that are shown, by their names in learner.jsonl, with their digits after the point.
_NUMBERS = {"reward": 3, "reward_mean": 3, "staleness_mean": 2, "entropy": 3, "grad_norm": 3, "step_s": 1}


def print_remote_status(
    console: Console,
    status: operator_pb2.GetRunStatusResponse,
    ledgers: Sequence[rollout_pb2.Ledger],
    evaluations: Sequence[Evaluation],
) -> None:
    """Prints a run's state, what operators have changed in it, its ledgers and last evaluations."""
    console.print(
        Rule(Text(printable(f"Leeway · {status.run} · {status.state}"), style="bold"), align="left", style="dim")
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    for name, text in _rows(status, time.time()):
        table.add_row(name, Text(printable(text)))
    console.print(table)
    lines = [f"ledger of {ledger_line(ledger_row(one))}" for one in ledgers]
    for line in [*(lines or ["ledger: no fleet has submitted anything yet"]), *last_lines(evaluations)]:
        console.print(Text(printable(line)))


def _rows(status: operator_pb2.GetRunStatusResponse, now: float) -> Iterator[tuple[str, str]]:
    reported = "never"
    if status.HasField("reported_at"):
        reported = f"{duration(max(0.0, now - status.reported_at.ToNanoseconds() / 1e9))} ago"
    yield "step", f"{status.step:,} of epoch {status.epoch}, reported {reported}"
    yield "version", str(status.version) if status.HasField("version") else "none yet"
    yield "groups", f"{status.queued_groups:,} wait, {status.uncommitted_groups:,} trained and in no checkpoint yet"
    if status.halted:
        yield "halted", status.halted
    yield from in_force_rows(status.changed_settings, status.drained_fleets, "paused" in status.state)
    yield "streams", ", ".join(f"{name} {count}" for name, count in sorted(status.streams.items())) or "none here"
    known = {name: digits for name, digits in _NUMBERS.items() if name in status.last_step}
    numbers = [f"{name} {number(status.last_step[name], digits)}" for name, digits in known.items()]
    if "lr" in status.last_step:
        numbers.append(f"lr {status.last_step['lr']:.1e}")
    if numbers:
        yield "last step", ", ".join(numbers)

"""`leeway ledger`: the account of a run's fleets, and the law it must obey."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from learner.cli.layout import RunDirectory, RunError
from learner.cli.runfile import EMBEDDED, RunFile
from learner.queue import EmbeddedRedis, check, read_ledgers
from leeway.v1 import rollout_pb2

_COLUMNS = ("received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "queued", "in_flight")


def ledgers_of(run: RunDirectory, fleet: str | None = None) -> list[rollout_pb2.Ledger]:
    """Reads the accounts: from the running Redis, or from one started on the run's data for this moment.

    Raises:
        RunError: no such fleet. QueueError: Redis cannot be read. SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    identity = run.identity(run_file.run.name)
    if run_file.queue.url == EMBEDDED:
        with EmbeddedRedis.serving(run.redis) as url:
            ledgers = read_ledgers(url, identity)
    else:
        ledgers = read_ledgers(run_file.queue.url, identity)
    if fleet is None:
        return ledgers
    chosen = [ledger for ledger in ledgers if ledger.fleet == fleet]
    if not chosen:
        known = ", ".join(ledger.fleet for ledger in ledgers) or "none yet"
        raise RunError(f"fleet {fleet!r} never submitted to {run.root}; fleets that did: {known}")
    return chosen


def ledger_table(ledgers: Sequence[rollout_pb2.Ledger]) -> Table:
    """A row per fleet, both sides of the law side by side."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("fleet")
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    table.add_column("law")
    for ledger in ledgers:
        law = "[red]broken[/red]" if check(ledger) else "[green]holds[/green]"
        table.add_row(ledger.fleet, *(f"{getattr(ledger, column):,}" for column in _COLUMNS), law)
        for reason, count in sorted(ledger.rejected_by_reason.items()):
            table.add_row(f"  rejected: {reason}", "", "", "", f"{count:,}")
    return table


def violations(ledgers: Sequence[rollout_pb2.Ledger]) -> list[str]:
    """Every broken line of the law, in words."""
    return [violation for ledger in ledgers for violation in check(ledger)]

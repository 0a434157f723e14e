"""`leeway ledger`: the account of a run's fleets, and the law it must obey."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from learner.cli.layout import RunDirectory, RunError
from learner.cli.runfile import EMBEDDED, RunFile
from learner.queue import EmbeddedRedis, check, ledgers_in
from leeway.v1 import rollout_pb2

LAW = (
    ("received", "accepted", "duplicate", "rejected", "retried"),
    ("accepted", "trained", "expired", "queued", "in_flight"),
)


def ledgers_of(run: RunDirectory, fleet: str | None = None) -> list[rollout_pb2.Ledger]:
    """Reads the accounts: from the running Redis, or from one started on the run's data for this moment.

    Raises:
        RunError: no such fleet. QueueError: Redis cannot be read. SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    identity = run.identity(run_file.run.name)
    if run_file.queue.url == EMBEDDED:
        with EmbeddedRedis.serving(run.redis) as url:
            ledgers = ledgers_in(run_file.queue_config(url, identity))
    else:
        ledgers = ledgers_in(run_file.queue_config(run_file.queue.url, identity))
    if fleet is None:
        return ledgers
    chosen = [ledger for ledger in ledgers if ledger.fleet == fleet]
    if not chosen:
        known = ", ".join(ledger.fleet for ledger in ledgers) or "none yet"
        raise RunError(f"fleet {fleet!r} never submitted to {run.root}; fleets that did: {known}")
    return chosen


def ledger_tables(ledgers: Sequence[rollout_pb2.Ledger]) -> Group:
    """Each line of the law as a table, a row per fleet; then why groups were rejected."""
    parts: list[RenderableType] = [_line(ledgers, names) for names in LAW]
    reasons = [(ledger.fleet, *item) for ledger in ledgers for item in sorted(ledger.rejected_by_reason.items())]
    parts += [f"rejected from {fleet}: {count:,} {reason}" for fleet, reason, count in reasons]
    return Group(*parts)


def _line(ledgers: Sequence[rollout_pb2.Ledger], names: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("fleet")
    for name, sign in zip(names, " =+++", strict=True):
        table.add_column(f"{sign} {name.replace('_', ' ')}".strip(), justify="right", no_wrap=True)
    table.add_column()
    for ledger in ledgers:
        whole, *parts = (getattr(ledger, name) for name in names)
        law = "[green]holds[/green]" if whole == sum(parts) else f"[red]broken by {whole - sum(parts):+,}[/red]"
        table.add_row(ledger.fleet, *(f"{value:,}" for value in (whole, *parts)), law)
    return table


def violations(ledgers: Sequence[rollout_pb2.Ledger]) -> list[str]:
    """Every broken line of the law, in words."""
    return [violation for ledger in ledgers for violation in check(ledger)]

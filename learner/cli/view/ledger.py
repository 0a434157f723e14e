"""`leeway ledger`: the account of a run's fleets, the law it must obey, and a second opinion on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from learner.checkpoint import store
from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.view.histograms import histogram_table
from learner.config import QueueConfig
from learner.queue import GroupRef, Recount, check, ledgers_in, recount
from leeway.v1 import rollout_pb2

LAW = (
    ("received", "accepted", "duplicate", "rejected", "retried"),
    ("accepted", "trained", "expired", "lost", "queued", "in_flight"),
)
_EVERY_S = 1.0


def ledgers_of(run: RunDirectory, fleet: str | None = None) -> list[rollout_pb2.Ledger]:
    """Reads the accounts: from the running Redis, or from one started on the run's data for this moment.

    Raises:
        RunError: no such fleet. QueueError: Redis cannot be read. SettingsError: run.json is damaged.
    """
    with queue_of(run) as config:
        return _read(config, run, fleet)


def watch(console: Console, run: RunDirectory, fleet: str | None = None) -> None:
    """Shows the accounts as they change, until Ctrl-C. Raises as ``ledgers_of``."""
    with queue_of(run) as config, Live(console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                ledgers = _read(config, run, fleet)
                broken = [f"[red]the law is broken: {violation}[/red]" for violation in violations(ledgers)]
                live.update(Group(ledger_tables(ledgers), *broken), refresh=True)
                time.sleep(_EVERY_S)
        except KeyboardInterrupt:
            return


def recount_of(run: RunDirectory) -> Recount:
    """Counts the run again, from Redis and from its newest checkpoint that says what it contains. Raises QueueError."""
    with queue_of(run) as config:
        return recount(config, _trained(run))


def recount_row(found: Recount) -> dict[str, Any]:
    """A recount as plain values."""
    return asdict(found)


def recount_lines(found: Recount) -> list[str]:
    """A recount in words."""
    ids = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(found.remembered.items())) or "none"
    lines = [
        f"counted again: {found.entries:,} groups in the queue, {found.payload_bytes:,} bytes; ids remembered: {ids}"
    ]
    lines += [f"not proven: {text}" for text in found.unproven]
    return lines + [f"wrong: {one.text}" for one in found.discrepancies]


def ledger_tables(ledgers: Sequence[rollout_pb2.Ledger]) -> Group:
    """Each line of the law as a table, a row per fleet; what else is counted; reasons; distributions by outcome."""
    parts: list[RenderableType] = [_line(ledgers, names) for names in LAW]
    parts.append(_besides(ledgers))
    for outcome in ("rejected", "retried"):
        for ledger in ledgers:
            reasons = sorted(getattr(ledger, f"{outcome}_by_reason").items())
            parts += [f"{outcome} from {ledger.fleet}: {count:,} {reason}" for reason, count in reasons]
    if any(ledger.histogram for ledger in ledgers):
        parts.append(histogram_table(ledgers))
    return Group(*parts)


def violations(ledgers: Sequence[rollout_pb2.Ledger]) -> list[str]:
    """Every broken line of the law, in words."""
    return [violation for ledger in ledgers for violation in check(ledger)]


def _read(config: QueueConfig, run: RunDirectory, fleet: str | None) -> list[rollout_pb2.Ledger]:
    ledgers = ledgers_in(config)
    if fleet is None:
        return ledgers
    chosen = [ledger for ledger in ledgers if ledger.fleet == fleet]
    if not chosen:
        known = ", ".join(ledger.fleet for ledger in ledgers) or "none yet"
        raise RunError(f"fleet {fleet!r} never submitted to {run.root}; fleets that did: {known}")
    return chosen


def _trained(run: RunDirectory) -> list[GroupRef]:
    for directory in reversed(store.completed(run.checkpoints)):
        try:
            return store.read_state(directory).trained
        except store.DamagedError:
            continue  # the learner passes it over too
        except store.CheckpointError as error:
            raise RunError(str(error)) from error
    return []


def _line(ledgers: Sequence[rollout_pb2.Ledger], names: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("fleet")
    for name, sign in zip(names, " =++++"[: len(names)], strict=True):
        table.add_column(f"{sign} {name.replace('_', ' ')}".strip(), justify="right", no_wrap=True)
    table.add_column()
    for ledger in ledgers:
        whole, *parts = (getattr(ledger, name) for name in names)
        law = "[green]holds[/green]"
        if whole != sum(parts):
            law = f"[red]broken by {whole - sum(parts):+,}[/red]"
        elif "lost" in names and ledger.lost:
            law = f"[red]{ledger.lost:,} lost[/red]"
        table.add_row(ledger.fleet, *(f"{value:,}" for value in (whole, *parts)), law)
    return table


def _besides(ledgers: Sequence[rollout_pb2.Ledger]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("fleet")
    for name in ("accepted MB", "queued MB", "redelivered", "vanished"):
        table.add_column(name, justify="right", no_wrap=True)
    for ledger in ledgers:
        vanished = f"[red]{ledger.vanished:,}[/red]" if ledger.vanished else "0"
        sizes = (f"{size / 1e6:,.1f}" for size in (ledger.bytes, ledger.queued_bytes))
        table.add_row(ledger.fleet, *sizes, f"{ledger.redelivered:,}", vanished)
    return table

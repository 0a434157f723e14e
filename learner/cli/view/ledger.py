"""`leeway ledger`: shows what became of every group of a run's fleets, whether that adds up, and a recount of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from learner.checkpoint import store
from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.view.histograms import histogram_table
from learner.queue import GroupRef, Recount, imbalances, ledgers_in, recount
from leeway.v1 import rollout_pb2

IMBALANCE = "the ledger does not balance"
# The accounting invariant: in each line, the first count is the sum of the others.
INVARIANT = (
    ("received", "accepted", "duplicate", "rejected", "retried"),
    ("accepted", "trained", "expired", "quarantined", "lost", "queued", "in_flight"),
)
_REFRESH_S = 1.0


def ledgers_of(run: RunDirectory, fleet: str | None = None) -> list[rollout_pb2.Ledger]:
    """Reads the ledgers, from the running Redis or from one started for this purpose on the run's data.

    Args:
        run: the run.
        fleet: read the ledger of this fleet only; None: of all fleets.

    Raises:
        RunError: the fleet never submitted to this run.
        QueueError: Redis cannot be read.
        SettingsError: run.json is damaged.
    """
    with queue_of(run) as config:
        return of_fleet(ledgers_in(config), fleet, str(run.root))


def watch(console: Console, read: Callable[[], Sequence[rollout_pb2.Ledger]]) -> None:
    """Shows what ``read`` returns and refreshes it every second, until Ctrl-C. Raises the errors of ``read``."""
    with Live(console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                ledgers = read()
                broken = [f"[red]{IMBALANCE}: {violation}[/red]" for violation in violations(ledgers)]
                live.update(Group(ledger_tables(ledgers), *broken), refresh=True)
                time.sleep(_REFRESH_S)
        except KeyboardInterrupt:
            return


def recount_of(run: RunDirectory) -> Recount:
    """Recounts the run from every entry, payload and id in Redis, and from its newest intact checkpoint.

    Raises:
        RunError: a checkpoint cannot be used.
        QueueError: Redis cannot be read.
        SettingsError: run.json is damaged.
    """
    with queue_of(run) as config:
        return recount(config, _trained(run))


def recount_row(found: Recount) -> dict[str, Any]:
    """A recount as plain values for JSON."""
    return asdict(found)


def recount_lines(found: Recount) -> list[str]:
    """A recount as lines of text: what was counted, what could not be verified, and what differs from the ledger."""
    ids = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(found.remembered.items())) or "none"
    lines = [f"recounted: {found.entries:,} groups in the queue, {found.payload_bytes:,} bytes; ids remembered: {ids}"]
    lines += [f"not verified: {text}" for text in found.unverified]
    return lines + [f"discrepancy: {one.text}" for one in found.discrepancies]


def ledger_tables(ledgers: Sequence[rollout_pb2.Ledger]) -> Group:
    """Renders ledgers: a table for each line of the invariant, other counts, reasons, and distributions by outcome."""
    tables: list[RenderableType] = [_equation(ledgers, names) for names in INVARIANT]
    tables.append(_other_counts(ledgers))
    for outcome in ("rejected", "retried"):
        for ledger in ledgers:
            reasons = sorted(getattr(ledger, f"{outcome}_by_reason").items())
            tables += [f"{outcome} from {ledger.fleet}: {count:,} {reason}" for reason, count in reasons]
    for ledger in ledgers:
        reasons = sorted(ledger.unscored_responses_by_reason.items())
        tables += [f"unscored responses from {ledger.fleet}: {count:,} {reason}" for reason, count in reasons]
    if any(ledger.histogram for ledger in ledgers):
        tables.append(histogram_table(ledgers))
    return Group(*tables)


def ledger_line(row: Mapping[str, Any]) -> str:
    """A fleet's ledger as one line of text.

    Args:
        row: the ledger as learner.cli.run.summary.ledger_row gives it.
    """
    terms = [f"{row[name]:,} {name.replace('_', ' ')}" for name in INVARIANT[1][1:] if row[name] or name == "trained"]
    refused = [f"{row[name]:,} {name}" for name in INVARIANT[0][2:] if row[name]]
    balances = not row["lost"] and all(row[total] == sum(row[name] for name in others) for total, *others in INVARIANT)
    besides = f"; besides {', '.join(refused)}" if refused else ""
    return f"{row['fleet']}: {row['accepted']:,} accepted = {' + '.join(terms)}{besides}; " + (
        "balances" if balances else IMBALANCE
    )


def violations(ledgers: Sequence[rollout_pb2.Ledger]) -> list[str]:
    """Every way in which a ledger does not balance, in words and with the difference; empty when all balance."""
    return [violation for ledger in ledgers for violation in imbalances(ledger)]


def of_fleet(ledgers: Sequence[rollout_pb2.Ledger], fleet: str | None, where: str) -> list[rollout_pb2.Ledger]:
    """Returns the ledger of one fleet, or all of them for None; ``where`` names the run in the error.

    Raises:
        RunError: the fleet never submitted to this run.
    """
    chosen = [ledger for ledger in ledgers if fleet in (None, ledger.fleet)]
    if fleet is not None and not chosen:
        known = ", ".join(ledger.fleet for ledger in ledgers) or "none yet"
        raise RunError(f"fleet {fleet!r} never submitted to {where}; fleets that did: {known}")
    return chosen


def _trained(run: RunDirectory) -> list[GroupRef]:
    for directory in reversed(store.completed(run.checkpoints)):
        try:
            return store.read_state(directory).trained
        except store.DamagedError:
            continue  # the learner does not resume from it either
        except store.CheckpointError as error:
            raise RunError(str(error)) from error
    return []


def _equation(ledgers: Sequence[rollout_pb2.Ledger], names: Sequence[str]) -> Table:
    """One line of the invariant, as the table "total = term + term ..." with a row per fleet."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("fleet")
    for name, sign in zip(names, " =+++++"[: len(names)], strict=True):
        table.add_column(f"{sign} {name.replace('_', ' ')}".strip(), justify="right", no_wrap=True)
    table.add_column()
    for ledger in ledgers:
        total, *terms = (getattr(ledger, name) for name in names)
        verdict = "[green]balances[/green]"
        if total != sum(terms):
            verdict = f"[red]off by {total - sum(terms):+,}[/red]"
        elif "lost" in names and ledger.lost:
            verdict = f"[red]{ledger.lost:,} lost[/red]"
        table.add_row(ledger.fleet, *(f"{value:,}" for value in (total, *terms)), verdict)
    return table


def _other_counts(ledgers: Sequence[rollout_pb2.Ledger]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("fleet")
    for name in ("accepted MB", "queued MB", "redelivered", "given up", "without contrast", "unscored", "vanished"):
        table.add_column(name, justify="right", no_wrap=True)
    for ledger in ledgers:
        vanished = f"[red]{ledger.vanished:,}[/red]" if ledger.vanished else "0"
        sizes = (f"{size / 1e6:,.1f}" for size in (ledger.bytes, ledger.queued_bytes))
        counts = (ledger.redelivered, ledger.given_up, ledger.without_contrast, ledger.unscored)
        table.add_row(ledger.fleet, *sizes, *(f"{count:,}" for count in counts), vanished)
    return table

"""The tables that a chaos run prints at its end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import Result


def show(result: Result) -> None:
    """Prints the tables of faults and of the account; the caller prints the verdict as the last line."""
    console = Console(width=110)
    console.print(_faults(result))
    console.print(_numbers(result))


def _faults(result: Result) -> Table:
    table = Table(title="Faults and recoveries", title_justify="left")
    for name in ("fault", "times", "recovery p50 s", "p95 s", "longest s"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    kinds = [(f"kill {name}", count) for name, count in result.kills.items()] + list(result.others.items())
    for kind, count in sorted(kinds):
        seconds = sorted(result.recoveries.get(kind, []))
        figures = (quantile(seconds, 0.5), quantile(seconds, 0.95), seconds[-1]) if seconds else ()
        table.add_row(kind, str(count), *(f"{figure:.1f}" for figure in figures))
    return table


def _numbers(result: Result) -> Table:
    account = result.account
    table = Table(title="Account, from the producers' and the learners' logs", title_justify="left")
    table.add_column("what")
    table.add_column("how many", justify="right")
    redelivered = sum(ledger.redelivered for ledger in result.ledgers)
    rows: list[tuple[str, object]] = [
        ("groups acknowledged", len(account.acked)),
        ("trained, in the surviving weights", len(account.trained)),
        ("expired", len(account.expired)),
        ("rejected", dict(account.rejected) or 0),
        ("resent and answered DUPLICATE", account.resent),
        ("handed out again to a newer learner (ledger)", redelivered),
        ("trained on a timeline that was lost, and again after it", account.retrained),
        ("optimizer steps, learners", f"{result.steps}, {result.learners}"),
        ("ledgers checked, out of balance", f"{result.ledgers_checked}, {len(result.imbalance)}"),
        ("vanished from Redis, by the ledger", vanished(result)),
        ("given up by rollbacks: announced, counted", f"{result.announced}, {result.counted}"),
        ("expired, of fleets that obey their leases", expired_of_obedient(result)),
        ("highest memory of a gateway, MiB", f"{result.gateway_mib:.0f}"),
        ("longest wait for an answer, s", f"{max(result.pauses.values(), default=0.0):.1f}"),
        ("duration, minutes", f"{result.seconds / 60:.1f}"),
    ]
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def expired_of_obedient(result: Result) -> int:
    """Number of expired groups of fleets with leases: the second half of the producers, and the worker."""
    producers = sorted(ledger.fleet for ledger in result.ledgers if ledger.fleet.startswith("fleet-"))
    obedient = {*producers[len(producers) // 2 :], "local"}
    return sum(ledger.expired for ledger in result.ledgers if ledger.fleet in obedient)


def vanished(result: Result) -> int:
    """Number of acknowledged groups that Redis has forgotten, as the ledgers count them."""
    return sum(ledger.vanished for ledger in result.ledgers)


def quantile(ordered: Sequence[float], q: float) -> float:
    """The ``q``-quantile of ascending values, interpolated linearly."""
    return (
        ordered[0]
        if len(ordered) == 1
        else statistics.quantiles(ordered, n=100, method="inclusive")[round(q * 100) - 1]
    )

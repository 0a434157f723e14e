"""The report's sections on what flows: throughput of both sides, time per step by phase, waste and the ledger."""

from __future__ import annotations

import html
from collections.abc import Sequence

from learner.cli.report.charts import flow
from learner.cli.report.charts.series import names_in
from learner.cli.report.distributions import distributions
from learner.cli.report.page import Chart, charts, panel, section
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import Row, RunHistory

_LEDGER = ("received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "quarantined", "queued",
           "in_flight")  # fmt: skip
_EQUATION = (
    "received = accepted + duplicate + rejected + retried, and accepted = trained + expired + quarantined + queued + in "
    "flight, for every fleet."
)


def throughput_section(history: RunHistory, run_file: RunFile) -> str:
    """Tokens per second of both sides, the queue between them, and the versions that go back."""
    learner, limits = history.learner, run_file.learner
    rows = list(learner.steps.values())
    if not rows and not history.workers:
        return ""
    times = [row["time"] for row in [*learner.warmup[:1], *learner.starts[:1], *rows[:1]]]
    times += [worker.progress[0]["time"] for worker in history.workers.values() if worker.progress]
    start = min(times, default=0.0)
    hidden = len(history.workers) - flow.MOST_WORKERS
    more = f" {hidden} more workers are not shown." if hidden > 0 else ""
    found = [
        Chart("Throughput", f"Response tokens, generated and trained.{more}", flow.throughput(history, start)),
        Chart(
            "Queue",
            "Accepted groups that wait for the learner.",
            flow.queue_depth(rows, start, limits.groups_per_step, limits.max_staleness),
        ),
        Chart("Versions", "Published by the learner, loaded by the engines.", flow.versions(history, start)),
    ]
    return section("Throughput", charts(found))


def time_section(history: RunHistory) -> str:
    """What the learner spends the time of a step on."""
    note = "What the learner spends it on; without the first step after a start, which waits for the engines."
    rows = history.learner.steady()
    return section("Time per step", charts([Chart("Time per step", note, flow.step_time(rows))] if rows else []))


def waste_section(rows: Sequence[Row], ledgers: Sequence[Row] | None) -> str:
    """Tokens that taught nothing, and every fleet's ledger.

    Args:
        rows: step rows.
        ledgers: summary.json's ``ledger``; None while the run is in progress.
    """
    found = []
    if names_in(rows, "tokens_wasted"):
        found.append(Chart("Wasted tokens", "Generated, and of no use to training, by reason.", flow.waste(rows)))
    table = _ledger(ledgers or []) + distributions(ledgers or [])
    return section("Waste and ledger", charts(found), f"<br><p class=note>{_EQUATION}</p><br>", panel(table))


def _ledger(ledgers: Sequence[Row]) -> str:
    if not ledgers:
        return "<p>It is not in summary.json; <code>leeway ledger</code> shows it.</p>"
    head = "".join(f"<th class=n>{name.replace('_', ' ')}</th>" for name in _LEDGER)
    body = []
    for ledger in ledgers:
        balances = _balances(ledger)
        cells = "".join(f"<td class=n>{ledger[name]:,}</td>" for name in _LEDGER)
        verdict = f"<td class={'good' if balances else 'bad'}>{'yes' if balances else 'no'}</td>"
        body.append(f"<tr><td>{html.escape(ledger['fleet'])}</td>{cells}{verdict}</tr>")
    return f"<table><tr><th>fleet</th>{head}<th>balances</th></tr>{''.join(body)}</table>"


def _balances(row: Row) -> bool:
    """Whether received and accepted are the sums of their terms, with nothing lost."""
    answered = row["accepted"] + row["duplicate"] + row["rejected"] + row["retried"]
    return row["received"] == answered and row["accepted"] == sum(row[name] for name in _LEDGER[5:])

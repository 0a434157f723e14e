"""Table of what was trained beside what was not, by length and reward: whether dropping has biased the training."""

from __future__ import annotations

import html
from collections.abc import Sequence

from learner.cli.run.run_history import Row

_MEASURES = {"length": "tokens per response", "reward": "mean reward"}


def distributions(ledgers: Sequence[Row]) -> str:
    """Returns HTML with a row per interval of each fleet that has groups which left the queue untrained; "" without any.

    Args:
        ledgers: rows of summary.json's ``ledger``.
    """
    body = [row for ledger in ledgers for measure in _MEASURES for row in _rows(ledger, measure)]
    if not body:
        return ""
    names = ("fleet", "measure", "from", "to", "trained", "not trained", "share")
    head = "".join(f"<th{' class=n' if name not in ('fleet', 'measure') else ''}>{name}</th>" for name in names)
    note = "Groups that left the queue, by what became of them. If the share grows with the length, or as the reward falls, "
    note += "what is slow or hard is missing from the training."
    return f"<p class=note>{note}</p><table><tr>{head}</tr>{''.join(body)}</table>"


def _rows(ledger: Row, measure: str) -> list[str]:
    buckets = [bucket for bucket in ledger["histogram"] if bucket["measure"] == measure]
    if all(bucket["outcome"] == "trained" for bucket in buckets):
        return []
    rows = []
    for lower, upper in sorted({(bucket["lower"], bucket["upper"]) for bucket in buckets}):
        counts = [(one["outcome"], one["count"]) for one in buckets if (one["lower"], one["upper"]) == (lower, upper)]
        trained = sum(count for outcome, count in counts if outcome == "trained")
        others = sum(count for _, count in counts) - trained
        cells = (f"{lower:g}", f"{upper:g}", f"{trained:,}", f"{others:,}", f"{others / (trained + others):.1%}")
        numbers = "".join(f"<td class=n>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{html.escape(ledger['fleet'])}</td><td>{_MEASURES[measure]}</td>{numbers}</tr>")
    return rows

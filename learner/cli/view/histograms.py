"""Distributions of the groups that left the queue, one line each: what expired compared with what was trained."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from leeway.v1 import rollout_pb2

_BLOCKS = " ▁▂▃▄▅▆▇█"
_MEASURES = {rollout_pb2.MEASURE_LENGTH: "tokens per response", rollout_pb2.MEASURE_REWARD: "mean reward"}


def histogram_table(ledgers: Sequence[rollout_pb2.Ledger]) -> Table:
    """Makes a table with a row per fleet, measure and outcome; rows of one fleet and measure share their axis."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for name, right in (("fleet", False), ("measure", False), ("outcome", False), ("groups", True), ("from", True),
                        ("", False), ("to", False)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for ledger in ledgers:
        for measure, name in _MEASURES.items():
            buckets = [bucket for bucket in ledger.histogram if bucket.measure == measure]
            edges = sorted({(bucket.lower, bucket.upper) for bucket in buckets})
            for outcome in sorted({bucket.outcome for bucket in buckets}, reverse=True):  # trained first
                counts = {(b.lower, b.upper): b.count for b in buckets if b.outcome == outcome}
                row = [counts.get(edge, 0) for edge in edges]
                table.add_row(
                    ledger.fleet, name, outcome, f"{sum(row):,}", f"{edges[0][0]:g}", bars(row), f"{edges[-1][1]:g}"
                )
    return table


def bars(counts: Sequence[int]) -> str:
    """Draws each count as a block character, its height relative to the largest count; only 0 is blank."""
    most = max(counts, default=0)
    return "".join(_BLOCKS[-(-8 * count // most)] if count else _BLOCKS[0] for count in counts)

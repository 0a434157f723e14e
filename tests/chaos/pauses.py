"""Measures how long a fleet was left without an answer, from its producers' own logs."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.tail import Tail


def longest_pauses(directory: Path) -> dict[str, float]:
    """Returns producer -> the longest time, in seconds, in which it waited for acks or a lease and nothing came.

    The time in which the producer itself was dead does not count.
    """
    return {path.stem: _longest(path) for path in sorted(directory.glob("producers/*.jsonl"))}


def _longest(path: Path) -> float:
    longest, since, owed, asked = 0.0, 0.0, 0, 0
    for row in Tail(path).rows():
        if row["kind"] == "start":
            since, asked = row["time"], 0
            continue
        if row["kind"] in ("ask", "made"):
            if not owed and not asked:
                since = row["time"]
            asked += row["kind"] == "ask"
            owed += row["kind"] == "made"
            continue
        longest, since = max(longest, row["time"] - since), row["time"]
        asked = 0 if row["kind"] == "lease" else asked
        owed -= row["kind"] == "ack"
    return longest

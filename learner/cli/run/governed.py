"""What bounded a run's learning rate below its ceiling, read off its step rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learner.cli.run.run_history import Row, mean

# A governed rate ends well above a tenth of a ceiling that is 4 to 16 times too high (docs/objectives.md).
FAR_BELOW = 0.1
_LONG = 50  # steps; from its start, 0.02 of the ceiling, the rate has grown above a tenth in eight
_LAST = 20  # measurements of drift that are averaged: single ones scatter


def governed(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Summarises what became of the learning rate; None where no step knows its share of a ceiling.

    Args:
        rows: step rows, ascending. Steps that an alarm holds have a rate of 0 and no share, and are left out.

    Returns:
        ``first`` and ``last``: learning rates; ``share``: of the ceiling, at the last step; ``bounded``: share of the steps
        in which the rate was below its ceiling; ``drift``: mean of the last 20 measurements, nats a token; None without one.
    """
    known = [row for row in rows if row.get("lr_ceiling_share") is not None]
    if not known:
        return None
    measured = [row for row in known if row.get("drift_measured") is not None]
    return {
        "first": known[0]["lr"],
        "last": known[-1]["lr"],
        "share": known[-1]["lr_ceiling_share"],
        "bounded": sum(row["lr_ceiling_share"] < 1 for row in known) / len(known),
        "drift": mean(measured[-_LAST:], "drift_measured"),
    }


def far_below(rows: Sequence[Row]) -> list[Row]:
    """The steps up to the last one whose rate stayed below a tenth of its ceiling; empty if they are fewer than 50.

    Args:
        rows: step rows, ascending.
    """
    found: list[Row] = []
    for row in reversed(rows):
        if (share := row.get("lr_ceiling_share")) is None:
            continue
        if share >= FAR_BELOW:
            break
        found.append(row)
    return found[::-1] if len(found) >= _LONG else []

"""The versions of a run as `leeway policy list` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from leeway.v1 import rollout_pb2

_COLUMNS = ("version", "step", "epoch", "bytes", "kind", "published", "state", "run by", "evaluated")
_NUMBERS = 4


@dataclass(frozen=True)
class VersionRow:
    """One version.

    Attributes:
        version: its number.
        step: the optimizer step of its weights; None: its manifest cannot be read.
        epoch: the learner's epoch that published it.
        size: bytes of its files; None where they are not known.
        kind: "full", "delta of N" or "adapter, rank N"; "" where it is not known.
        published: when, as text.
        states: "newest", "pinned", "best", "orphan", "unreadable".
        run_by: workers that run it, as fleet/worker; None where that is not known.
        evaluated: what it is worth, in a few words.
    """

    version: int
    step: int | None = None
    epoch: int | None = None
    size: int | None = None
    kind: str = ""
    published: str = ""
    states: tuple[str, ...] = ()
    run_by: tuple[str, ...] | None = ()
    evaluated: str = ""


def version_table(rows: Sequence[VersionRow]) -> Table:
    """Makes a table with a row per version; columns of which nothing is known are left out."""
    cells = [_cells(row) for row in rows]
    shown = [
        place for place, name in enumerate(_COLUMNS) if name not in ("bytes", "kind") or any(c[place] for c in cells)
    ]
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for place in shown:
        table.add_column(_COLUMNS[place], justify="right" if place < _NUMBERS else "left")
    for row in cells:
        table.add_row(*(escape(row[place]) for place in shown))
    return table


def worth_of(evaluations: Iterable[rollout_pb2.Evaluation]) -> str:
    """Evaluations of one version in a few words: the mean reward of each, or its first metric if it has none."""
    return "; ".join(map(_worth, evaluations))


def _worth(evaluation: rollout_pb2.Evaluation) -> str:
    names = sorted(evaluation.metrics, key=lambda name: (not name.startswith("mean@"), name))
    value = f" {evaluation.metrics[names[0]].value:.3f}" if names else ""
    return f"{evaluation.name} {evaluation.sampling}{value}"


def _cells(row: VersionRow) -> list[str]:
    numbers = (row.version, row.step, row.epoch, row.size)
    running = "?" if row.run_by is None else ", ".join(row.run_by)
    texts = (row.kind, row.published, ", ".join(row.states), running, row.evaluated)
    return [*("" if number is None else f"{number:,}" for number in numbers), *texts]

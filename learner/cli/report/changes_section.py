"""The report's section on what operators have changed while the run went on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from learner.cli.report.page import panel, section, table
from learner.cli.run.run_history import Row
from learner.cli.view.text import printable

_NOTE = (
    "Changes that the learner applied or refused while it ran. `leeway ctl log` has those of gateways too: quotas, drained "
    "fleets."
)


def changes_section(changes: Sequence[Row]) -> str:
    """A table of the changes that the learner has recorded, with what is in force after them; "" without any."""
    rows = [_cells(row) for row in changes]
    found = table(("step", "time", "by", "change", "old", "new", "what became of it"), rows, texts=7)
    return section("Changes by operators", _in_force(changes), panel(found), note=_NOTE if rows else "")


def in_force_after(changes: Sequence[Row]) -> dict[str, Any]:
    """The settings that are changed after all these changes, with their values, and ``paused`` where the run is."""
    found: dict[str, Any] = {}
    for row in changes:
        if row.get("refused"):
            continue
        kind, content = row["change"], row.get("content") or {}
        if kind == "set":
            found.update(row.get("new") or {})
        elif kind == "unset":
            for name in content.get("names", []):
                found.pop(name, None)
        elif kind == "pause":
            found["paused"] = True
        elif kind == "resume":
            found.pop("paused", None)
    return found


def _in_force(changes: Sequence[Row]) -> str:
    found = in_force_after(changes)
    if not found:
        return ""
    return panel(
        table(("in force at the end", "value"), [(name, str(value)) for name, value in sorted(found.items())], 2)
    )


def _cells(row: Row) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
    content = row.get("content") or {}
    what = " ".join([row["change"], *(str(value) for name, value in content.items() if name != "values")])
    outcome = (
        f"{'refused' if row.get('refused') else 'applied'}{': ' if row.get('reason') else ''}{row.get('reason', '')}"
    )
    texts = (row["operator"], what, _values(row.get("old")), _values(row.get("new")), outcome)
    return [f"{row['step']:,}", when, *map(printable, texts)]


def _values(values: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((values or {}).items()))

"""Changes of a running service as text: a line, a table, or plain values for JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from learner.cli.view.text import printable
from leeway.v1 import operator_pb2

_STATES = {
    operator_pb2.CHANGE_STATE_PENDING: "pending",
    operator_pb2.CHANGE_STATE_APPLIED: "applied",
    operator_pb2.CHANGE_STATE_REFUSED: "refused",
}
_STYLES = {"applied": "green", "refused": "red", "pending": "yellow"}


def what(change: operator_pb2.Change) -> str:
    """What is to change, as its command says it: "pause", "set optimizer.lr=1e-05", "drain tokyo"."""
    kind = change.WhichOneof("kind")
    if kind is None:  # of a newer release
        return "unknown"
    if kind == "set":
        return " ".join(["set", *(f"{name}={value}" for name, value in sorted(change.set.values.items()))])
    if kind == "unset":
        return " ".join(["unset", *sorted(change.unset.names)])
    values = [str(value) for _, value in getattr(change, kind).ListFields()]
    if kind in ("rollback", "pin", "unpin"):
        values = [str(getattr(change, kind).version)]  # version 0 is one too
    return " ".join([kind, *values])


def state_of(record: operator_pb2.RecordedChange) -> str:
    """The state of a change, in a word."""
    return _STATES.get(record.state, "unknown")


def change_line(record: operator_pb2.RecordedChange) -> str:
    """What became of a change, on one line."""
    state, differences = state_of(record), _differences(record)
    parts = [f"change {record.number}, {what(record.change)}: {state}"]
    if state == "pending":
        parts.append("the learner looks at it before its next step")
    if record.step:
        parts[0] += f" before step {record.step:,}"
    parts += [text for text in (differences, record.reason) if text]
    return printable("; ".join(parts)).replace("\n", " ")


def change_table(records: Sequence[operator_pb2.RecordedChange]) -> Table:
    """A table with a row per change: who requested it and when, what, the values before and after, and what became of it."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("number", "requested", "by", "what", "old", "new", "state", "step", "reason"):
        table.add_column(name, justify="right" if name in ("number", "step") else "left", overflow="fold")
    for record in records:
        state = state_of(record)
        cells = [str(record.number), _time(record.requested_at), record.operator, what(record.change)]
        cells += [_values(record.old_values), _values(record.new_values)]
        texts = [Text(printable(cell)) for cell in cells]
        step = f"{record.step:,}" if record.step else ""
        table.add_row(*texts, Text(state, style=_STYLES.get(state, "")), step, Text(printable(record.reason)))
    return table


def change_row(record: operator_pb2.RecordedChange) -> dict[str, Any]:
    """A change as plain values for JSON; times as text in UTC, "" where there is none."""
    return {
        "number": record.number,
        "request_id": record.request_id,
        "operator": record.operator,
        "requested_at": _time(record.requested_at),
        "kind": record.change.WhichOneof("kind"),
        "what": what(record.change),
        "state": state_of(record),
        "reason": record.reason,
        "settled_at": _time(record.settled_at) if record.HasField("settled_at") else "",
        "step": record.step,
        "old": {name: _plain(value) for name, value in sorted(record.old_values.items())},
        "new": {name: _plain(value) for name, value in sorted(record.new_values.items())},
    }


def _differences(record: operator_pb2.RecordedChange) -> str:
    names = sorted({*record.old_values, *record.new_values})
    old, new = record.old_values, record.new_values
    return ", ".join(f"{name} {old.get(name, 'unset')} → {new.get(name, 'unset')}" for name in names)


def _values(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items()))


def _plain(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:  # of another program
        return value


def _time(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S}Z"

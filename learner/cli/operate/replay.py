"""Formats the rejected and refused groups that a run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from rich.markup import escape
from rich.table import Table

from learner.cli.run.config_files import config_file
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.config import GatewayConfig, LimitsConfig
from learner.queue.quarantine import Quarantined
from leeway.v1 import rollout_pb2

_SHOWN_TOKENS = 16


def table(entries: Sequence[Quarantined], now: float) -> Table:
    """Makes a table with a row per entry, in the given order. ``now``: Unix seconds, from which ages are computed."""
    result = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("key", "fleet", "age", "bytes", "reason", "field", "value"):
        number = name in ("age", "bytes")
        result.add_column(
            name, justify="right" if number else "left", overflow="fold", no_wrap=name in ("key", "bytes")
        )
    for one in entries:
        size = "not kept" if one.payload is None else f"{len(one.payload):,}"
        # The fleet wrote parts of the last two: what looks like markup is shown, not obeyed.
        words = (one.key, one.fleet, f"{now - one.time:,.0f} s", size, one.reason, one.field, one.value)
        result.add_row(*map(escape, words))
    return result


def row(entry: Quarantined) -> dict[str, Any]:
    """An entry as plain values for JSON, with the group's content if it can be parsed."""
    names = ("key", "fleet", "time", "group_id", "reason", "field", "value")
    return {**{name: getattr(entry, name) for name in names}, "group": _content(entry.payload)}


def limits_of(run: RunDirectory) -> LimitsConfig:
    """Reads the limits by which the run's gateway validates groups.

    Raises:
        RunError: the run was never started, so that its gateway has no settings yet.
        SettingsError: the gateway's settings are damaged.
    """
    path = config_file(run, "gateway")
    if not path.is_file():
        raise RunError(
            f"{path}: no such file; start the run once with `leeway up`, which writes the gateway's limits there"
        )
    return GatewayConfig.load(str(path)).limits


def _content(payload: bytes | None) -> dict[str, Any] | None:
    if payload is None:
        return None
    try:
        group = rollout_pb2.Group.FromString(payload)
    except DecodeError:
        return None
    return {
        "prompt_id": group.prompt_id,
        "task": group.task,
        "temperature": group.temperature,
        "prompt_tokens": len(group.prompt_tokens) // 4,
        "responses": [
            {
                **_sequence(one),
                "reward": str(one.reward),  # JSON has no word for NaN
                "unscored": one.unscored,
                "segments": [
                    {"context_tokens": len(segment.context_tokens) // 4, **_sequence(segment)}
                    for segment in one.segments
                ],
            }
            for one in group.responses
        ],
    }


def _sequence(one: rollout_pb2.Response | rollout_pb2.Segment) -> dict[str, Any]:
    return {
        "tokens": len(one.tokens) // 4,
        "first_tokens": _tokens(one.tokens),
        "spans": [[span.version, span.start, span.end] for span in one.spans],
    }


def _tokens(data: bytes) -> list[int]:
    shown = data[: min(len(data), 4 * _SHOWN_TOKENS) // 4 * 4]
    return np.frombuffer(shown, "<i4").tolist()

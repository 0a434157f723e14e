"""Selects, formats and resubmits the rejected and refused groups that a run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from rich.markup import escape
from rich.table import Table

from learner.cli.run.config_files import config_file
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.config import GatewayConfig, LimitsConfig, QueueConfig
from learner.gateway.submit_handler import to_append
from learner.gateway.validation import examine
from learner.gateway.version_ages import VersionAges
from learner.gateway.violation import ID_TOO_OLD, TOO_STALE, Violation
from learner.queue import Appended, GatewayQueue
from learner.queue.quarantine import NOT_FINITE, Quarantine, Quarantined
from leeway.v1 import rollout_pb2

_SHOWN_TOKENS = 16


def chosen(entries: Sequence[Quarantined], keys: Sequence[str], fleet: str | None) -> list[Quarantined]:
    """Selects entries of the quarantine.

    Args:
        entries: all entries.
        keys: keys or group ids of the entries to select; empty: all.
        fleet: select entries of this fleet only; None: of every fleet.

    Raises:
        RunError: a key is not in quarantine.
    """
    found = [one for one in entries if not keys or one.key in keys or one.group_id in keys]
    missing = set(keys) - {name for one in found for name in (one.key, one.group_id)}
    if missing:
        raise RunError(f"not in quarantine: {', '.join(sorted(missing))}; `leeway quarantine list RUN` shows what is")
    return [one for one in found if fleet in (None, one.fleet)]


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


async def replay(config: QueueConfig, limits: LimitsConfig, entries: Sequence[Quarantined]) -> list[tuple[str, str]]:
    """Submits entries again, oldest first, as a gateway would; accepted groups leave the quarantine.

    The ledger counts an accepted group as received and accepted now; its earlier rejection stays counted.

    Args:
        config: the run's queue.
        limits: the limits by which groups are validated.
        entries: what to submit.

    Returns:
        Each entry's key, and what became of it: "accepted", "duplicate", or "stays: " and the reason.

    Raises:
        QueueError: Redis cannot be used. Entries that were submitted before stay submitted.
    """
    queue = GatewayQueue(config, 0)
    outcomes = []
    try:
        await queue.check()
        versions = VersionAges(None)
        versions.add([policy for _, policy in await queue.policies("0")])
        with Quarantine(config) as quarantine:
            for entry in sorted(entries, key=lambda one: one.time):
                outcome = await _replay_one(queue, limits, versions, entry)
                # Removed after it was appended: if we die in between, the next replay finds a duplicate.
                if outcome in (Appended.ACCEPTED.value, Appended.DUPLICATE.value):
                    quarantine.remove([entry])
                outcomes.append((entry.key, outcome))
    finally:
        await queue.close()
    return outcomes


async def _replay_one(queue: GatewayQueue, limits: LimitsConfig, versions: VersionAges, entry: Quarantined) -> str:
    if entry.reason == ID_TOO_OLD:
        return "stays: id_too_old: it may have been accepted and trained before its id was forgotten"
    if entry.reason == TOO_STALE:
        return "stays: too_stale: the learner would let it expire"
    if entry.reason == NOT_FINITE:
        return "stays: not_finite: the learner took it once, and its loss or gradient was not finite"
    if entry.payload is None:
        return "stays: its content was too large to be kept"
    try:
        group = rollout_pb2.Group.FromString(entry.payload)
    except DecodeError as error:
        return f"stays: it cannot be parsed: {error}"
    found = examine(group, limits, versions.known)
    if isinstance(found, Violation):
        return f"stays: {found.reason}: {found.field} = {found.value}"
    measures = found._replace(versions=versions.deciding(found.versions))
    (outcome,) = (await queue.flush([to_append(entry.fleet, group, measures, "")], {}, [])).outcomes
    return outcome.value if outcome in (Appended.ACCEPTED, Appended.DUPLICATE) else f"stays: queue {outcome.value}"


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

"""Submits rejected groups that a run has kept again, as a gateway would take them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from learner.config import LimitsConfig, QueueConfig
from learner.gateway.request_errors import InvalidRequestError
from learner.gateway.submit_handler import to_append
from learner.gateway.validation import examine
from learner.gateway.version_ages import VersionAges
from learner.gateway.violation import ID_TOO_OLD, TOO_STALE, Violation, quoted
from learner.queue import Appended, GatewayQueue
from learner.queue.quarantine import NOT_FINITE, Quarantine, Quarantined
from leeway.v1 import rollout_pb2

_LEAVING = (Appended.ACCEPTED.value, Appended.DUPLICATE.value)


def chosen(entries: Sequence[Quarantined], keys: Sequence[str], fleet: str | None) -> list[Quarantined]:
    """Selects entries of the quarantine.

    Args:
        entries: all entries.
        keys: keys or group ids of the entries to select; empty: all.
        fleet: select entries of this fleet only; None: of every fleet.

    Raises:
        InvalidRequestError: a key is not in quarantine.
    """
    found = [one for one in entries if not keys or one.key in keys or one.group_id in keys]
    missing = set(keys) - {name for one in found for name in (one.key, one.group_id)}
    if missing:
        shown = ", ".join(map(quoted, sorted(missing)))
        raise InvalidRequestError(f"not in quarantine: {shown}; list the quarantine to see what is")
    return [one for one in found if fleet in (None, one.fleet)]


def leaves(outcome: str) -> bool:
    """Whether a group with this outcome of ``replay`` has left the quarantine."""
    return outcome in _LEAVING


async def replay(config: QueueConfig, limits: LimitsConfig, entries: Sequence[Quarantined]) -> list[tuple[str, str]]:
    """Submits entries again with a connection of its own; see ``resubmit``."""
    queue = GatewayQueue(config, 0)
    try:
        await queue.check()
        return await resubmit(queue, config, limits, entries)
    finally:
        await queue.close()


async def resubmit(
    queue: GatewayQueue, config: QueueConfig, limits: LimitsConfig, entries: Sequence[Quarantined]
) -> list[tuple[str, str]]:
    """Submits entries again, oldest first, as a gateway would; accepted groups leave the quarantine.

    The ledger counts an accepted group as received and accepted now; its earlier rejection stays counted.

    Args:
        queue: the run's queue.
        config: where that is, for the quarantine.
        limits: the limits by which groups are validated.
        entries: what to submit.

    Returns:
        Each entry's key, and what became of it: "accepted", "duplicate", or "stays: " and the reason.

    Raises:
        QueueError: Redis cannot be used. Entries that were submitted before stay submitted.
    """
    outcomes = []
    versions = VersionAges(None)
    versions.add([policy for _, policy in await queue.policies("0")])
    with Quarantine(config) as quarantine:
        for entry in sorted(entries, key=lambda one: one.time):
            outcome = await _resubmit_one(queue, limits, versions, entry)
            # Removed after it was appended: if we die in between, the next replay finds a duplicate.
            if leaves(outcome):
                await asyncio.to_thread(quarantine.remove, [entry])
            outcomes.append((entry.key, outcome))
    return outcomes


async def _resubmit_one(queue: GatewayQueue, limits: LimitsConfig, versions: VersionAges, entry: Quarantined) -> str:
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

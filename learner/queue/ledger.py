"""A fleet's account: read at one instant, and held against the law.

received = accepted + duplicate + rejected + retried
accepted = trained + expired + queued + in_flight
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.errors import QueueError
from learner.queue.keys import Keys
from learner.queue.scripts import script
from leeway.v1 import rollout_pb2

_REJECTED = "rejected:"
_COUNTERS = ("received", "accepted", "duplicate", "rejected", "retried", "trained", "expired")


def check(ledger: rollout_pb2.Ledger) -> list[str]:
    """Where a ledger breaks the law, in words; empty when it balances."""
    arrived = ledger.accepted + ledger.duplicate + ledger.rejected + ledger.retried
    kept = ledger.trained + ledger.expired + ledger.queued + ledger.in_flight
    by_reason = sum(ledger.rejected_by_reason.values())
    violations = []
    if ledger.received != arrived:
        violations.append(
            f"fleet {ledger.fleet!r}: received {ledger.received} != accepted {ledger.accepted} + duplicate "
            f"{ledger.duplicate} + rejected {ledger.rejected} + retried {ledger.retried} = {arrived} "
            f"(difference {ledger.received - arrived:+d})"
        )
    if ledger.accepted != kept:
        violations.append(
            f"fleet {ledger.fleet!r}: accepted {ledger.accepted} != trained {ledger.trained} + expired "
            f"{ledger.expired} + queued {ledger.queued} + in_flight {ledger.in_flight} = {kept} "
            f"(difference {ledger.accepted - kept:+d})"
        )
    if ledger.rejected != by_reason:
        violations.append(f"fleet {ledger.fleet!r}: rejected {ledger.rejected} != sum by reason {by_reason}")
    return violations


def read_ledgers(url: str, run: str, timeout_s: float = 10.0) -> list[rollout_pb2.Ledger]:
    """The account of every fleet of a run, by name; each at one instant. Raises QueueError."""
    keys = Keys(run)
    ledger = script("ledger")
    with contextlib.closing(connect(QueueConfig(url=url, run=run, timeout_s=timeout_s))) as client, translated():
        fleets: Any = client.smembers(keys.fleets)
        names = sorted(fleet.decode() for fleet in fleets)
        replies: list[Any] = [client.eval(ledger.text, 2, keys.ledger(name), keys.stream(name)) for name in names]
        return [decode(name, reply) for name, reply in zip(names, replies, strict=True)]


def decode(fleet: str, reply: Sequence) -> rollout_pb2.Ledger:
    """The message for what ledger.lua returned."""
    fields, queued, in_flight = reply
    counts = {fields[i].decode(): int(fields[i + 1]) for i in range(0, len(fields), 2)}
    if queued < 0:
        raise QueueError(f"fleet {fleet!r}: {in_flight} entries pending but fewer in its stream: it was trimmed")
    return rollout_pb2.Ledger(
        fleet=fleet,
        **{name: counts.get(name, 0) for name in _COUNTERS},
        queued=queued,
        in_flight=in_flight,
        rejected_by_reason={
            name.removeprefix(_REJECTED): count for name, count in counts.items() if name.startswith(_REJECTED)
        },
    )

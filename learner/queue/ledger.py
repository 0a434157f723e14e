"""Reads a fleet's ledger, at one instant, and checks the accounting invariant.

The ledger balances if

received = accepted + duplicate + rejected + retried
accepted = trained + expired + quarantined + lost + queued + in_flight, and lost = 0
trained >= without_contrast + unscored
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.errors import QueueError
from learner.queue.keys import Keys
from learner.queue.scripts import script
from leeway.v1 import rollout_pb2

_COUNTERS = (
    "received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "lost", "redelivered", "bytes",
    "given_up", "quarantined", "without_contrast", "unscored",
)  # fmt: skip
_MEASURES = {"length": rollout_pb2.MEASURE_LENGTH, "reward": rollout_pb2.MEASURE_REWARD}


def imbalances(ledger: rollout_pb2.Ledger) -> list[str]:
    """Returns a sentence for each equation of the accounting invariant that a ledger violates; empty if it balances."""
    name = f"fleet {ledger.fleet!r}"
    arrived = ledger.accepted + ledger.duplicate + ledger.rejected + ledger.retried
    gone = ledger.trained + ledger.expired + ledger.quarantined + ledger.lost
    kept = gone + ledger.queued + ledger.in_flight
    violations = []
    if ledger.received != arrived:
        violations.append(
            f"{name}: received {ledger.received} != accepted {ledger.accepted} + duplicate "
            f"{ledger.duplicate} + rejected {ledger.rejected} + retried {ledger.retried} = {arrived} "
            f"(difference {ledger.received - arrived:+d})"
        )
    if ledger.accepted != kept:
        violations.append(
            f"{name}: accepted {ledger.accepted} != trained {ledger.trained} + expired {ledger.expired} + quarantined "
            f"{ledger.quarantined} + lost {ledger.lost} + queued {ledger.queued} + in_flight {ledger.in_flight} = {kept} "
            f"(difference {ledger.accepted - kept:+d})"
        )
    if ledger.lost:
        violations.append(f"{name}: lost {ledger.lost}: accepted, but the content was gone or damaged when taken")
    if ledger.trained < ledger.without_contrast + ledger.unscored:
        violations.append(
            f"{name}: trained {ledger.trained} < without_contrast {ledger.without_contrast} + unscored {ledger.unscored} "
            f"= {ledger.without_contrast + ledger.unscored}"
        )
    for outcome, reasons in (("rejected", ledger.rejected_by_reason), ("retried", ledger.retried_by_reason)):
        total, by_reason = getattr(ledger, outcome), sum(reasons.values())
        if total != by_reason:
            violations.append(f"{name}: {outcome} {total} != sum by reason {by_reason}")
    return violations


def read_ledgers(url: str, run: str, timeout_s: float = 10.0) -> list[rollout_pb2.Ledger]:
    """Reads the ledger of every fleet of a run on a server that a URL suffices for (see ``ledgers_in``)."""
    return ledgers_in(QueueConfig(url=url, run=run, timeout_s=timeout_s))


def ledgers_in(config: QueueConfig) -> list[rollout_pb2.Ledger]:
    """Reads the ledger of every fleet of a run, sorted by fleet; each at one instant.

    Raises:
        QueueError: Redis cannot be read, or a stream was trimmed.
    """
    keys = Keys(config.run)
    ledger = script("ledger")
    with contextlib.closing(connect(config)) as client, translated():
        fleets: Any = client.smembers(keys.fleets)
        names = sorted(fleet.decode() for fleet in fleets)
        replies: list[Any] = [client.eval(ledger.text, 3, *ledger_keys(keys, name)) for name in names]
        return [decode(name, reply) for name, reply in zip(names, replies, strict=True)]


def ledger_keys(keys: Keys, fleet: str) -> list[str]:
    """Returns the keys that ledger.lua takes."""
    return [keys.ledger(fleet), keys.stream(fleet), keys.vanished(fleet)]


def decode(fleet: str, reply: Sequence) -> rollout_pb2.Ledger:
    """Converts the reply of ledger.lua.

    Raises:
        QueueError: the stream has fewer entries than are pending, because something trimmed it.
    """
    fields, queued, in_flight, vanished = reply
    counts = {fields[i].decode(): int(fields[i + 1]) for i in range(0, len(fields), 2)}
    if queued < 0:
        raise QueueError(
            f"fleet {fleet!r}: {in_flight} entries are pending, but its stream has fewer: something trimmed it"
        )
    return rollout_pb2.Ledger(
        fleet=fleet,
        **{name: counts.get(name, 0) for name in _COUNTERS},
        queued=queued,
        in_flight=in_flight,
        vanished=vanished + counts.get("vanished", 0),
        queued_bytes=max(0, counts.get("bytes", 0) - counts.get("bytes_done", 0)),
        rejected_by_reason=_under("rejected:", counts),
        retried_by_reason=_under("retried:", counts),
        unscored_responses_by_reason=_under("unscored:", counts),
        histogram=_histogram(counts),
    )


def _under(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}


def _histogram(counts: Mapping[str, int]) -> list[rollout_pb2.Bucket]:
    """Converts the counters that finish.lua names ``<measure>:<outcome>:<end of the interval>`` into buckets."""
    buckets = []
    for name, count in counts.items():
        measure, _, rest = name.partition(":")
        if measure in _MEASURES:
            outcome, _, end = rest.partition(":")
            lower, upper = _length_interval(float(end)) if measure == "length" else _reward_interval(float(end))
            buckets.append(
                rollout_pb2.Bucket(measure=_MEASURES[measure], outcome=outcome, lower=lower, upper=upper, count=count)
            )
    return sorted(buckets, key=lambda bucket: (bucket.measure, bucket.outcome, bucket.lower))


def _length_interval(upper: float) -> tuple[float, float]:
    return (upper / 2 if upper > 1 else 0.0), upper


def _reward_interval(lower: float) -> tuple[float, float]:
    if -1 <= lower < 1:
        return lower, round(lower + 0.1, 1)
    return lower, lower / 2 if lower < 0 else lower * 2

"""What a gateway shows Prometheus. The reference is deploy/metrics.md."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from learner.gateway.health import GatewayHealth
from learner.gateway.pending_submit import REASONS, PendingSubmit
from learner.queue import Backlog, Memory, Occupancy, check
from leeway.v1 import rollout_pb2
from runtime.metric_registry import MetricRegistry, Readings

_ACK_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_REDIS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_NAMES = {number: name.removeprefix("OUTCOME_").lower() for name, number in rollout_pb2.Outcome.items() if number}
_ACCEPTED = rollout_pb2.OUTCOME_ACCEPTED
_COUNTED = ("received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "lost", "vanished")
_WAITING = ("queued", "in_flight")


class GatewayMetrics:
    """A gateway's metrics. The busy path calls ``flushed`` once per batch; plain counts are all it touches.

    Args:
        vitals: whether groups can be taken.
    """

    def __init__(self, health: GatewayHealth) -> None:
        self.instruments = made = MetricRegistry()
        self._start = time.time()
        self._answered: Counter[tuple[str, int, str]] = Counter()  # fleet, outcome, reason ("" where there is none)
        self._bytes: Counter[str] = Counter()
        self._heard: dict[str, float] = {}  # fleet -> Unix seconds
        self._highest_step = -1
        by_fleet = ("fleet",)
        made.read(
            "leeway_gateway_ready",
            "1 while /readyz says so: Redis takes writes and this gateway does not drain.",
            lambda: float(health.ready() is None),
        )
        made.read(
            "leeway_gateway_redis_write_timestamp_seconds",
            "When Redis last took a write of this gateway; 0: never.",
            lambda: health.written,
        )
        made.read_all(
            "leeway_gateway_groups_total",
            "Groups answered, by outcome of the ack: accepted, duplicate, rejected, retry.",
            ("fleet", "outcome"),
            self._by_outcome,
        )
        made.read_all(
            "leeway_gateway_refused_groups_total",
            "Groups answered with rejected or retry, by reason.",
            ("fleet", "outcome", "reason"),
            self._by_reason,
        )
        made.read_all(
            "leeway_gateway_payload_bytes_total",
            "Payload of accepted groups.",
            by_fleet,
            lambda: {(fleet,): size for fleet, size in dict(self._bytes).items()},
        )
        self._ack = made.durations("leeway_gateway_ack_seconds", "From reading a group to handing out its ack.", _ACK_S)
        self._redis = made.histogram(
            "leeway_gateway_redis_round_trip_seconds", "A batch of appends and counts in Redis.", _REDIS_S
        )
        made.read_all(
            "leeway_gateway_fleet_heard_timestamp_seconds",
            "When a fleet last sent a group or asked for a lease; the gateway's start for one not heard since.",
            by_fleet,
            lambda: {(fleet,): when for fleet, when in dict(self._heard).items()},
        )
        self._streams = made.gauge("leeway_gateway_streams", "Open Submit and WatchPolicy streams.", by_fleet)
        self._leased = made.counter("leeway_gateway_leased_groups_total", "Groups promised by leases.", by_fleet)
        self._unleased = made.counter(
            "leeway_gateway_lease_waits_total",
            "Lease calls that got nothing: the bound on staleness is reached.",
            by_fleet,
        )
        self._unauthenticated = made.counter(
            "leeway_gateway_auth_failures_total", "Calls whose token or certificate is not a fleet's."
        )
        self._certificate = made.gauge(
            "leeway_gateway_certificate_expiry_timestamp_seconds", "When the certificate in use ends; without TLS +Inf."
        )
        self._certificate.set(float("inf"))
        self._declare_queue(made)

    def _declare_queue(self, made: MetricRegistry) -> None:
        """What is read from Redis every few seconds; the same on every gateway of a run."""
        by_fleet = ("fleet",)
        self._queued = made.gauge("leeway_gateway_queue_groups", "Groups that wait for the learner.", by_fleet)
        self._queued_bytes = made.gauge(
            "leeway_gateway_queue_bytes", "Payload of groups that wait or are in training.", by_fleet
        )
        self._limit = made.gauge("leeway_gateway_queue_limit_groups", "Backlog above which groups get RETRY.")
        self._limit_bytes = made.gauge("leeway_gateway_queue_limit_bytes", "The same in payload bytes.")
        self._held = made.gauge(
            "leeway_gateway_capacity_held_groups",
            "Groups promised, waiting, or taken and not stepped on yet.",
            by_fleet,
        )
        self._bound = made.gauge(
            "leeway_gateway_capacity_groups", "The most that may be held: (max_staleness + 1) * groups_per_step."
        )
        self._step = made.gauge("leeway_gateway_step", "The learner's optimizer step, as it last reported it.")
        self._stepped = made.gauge(
            "leeway_gateway_step_timestamp_seconds",
            "When that step was last seen to pass its highest value so far; the gateway's start before.",
        )
        self._stepped.set(self._start)
        self._ledger = made.gauge(
            "leeway_gateway_ledger_groups",
            "The run's account: received, accepted, duplicate, rejected, retried, trained, expired, lost, vanished, queued, "
            "in_flight.",
            ("fleet", "entry"),
        )
        self._violations = made.gauge(
            "leeway_gateway_ledger_violations",
            "Rules of the account that do not hold; lost groups not among them.",
            by_fleet,
        )
        self._memory = made.gauge("leeway_gateway_redis_memory_used_bytes", "Redis's used_memory.")
        self._max_memory = made.gauge("leeway_gateway_redis_memory_max_bytes", "Redis's maxmemory; without one +Inf.")
        self._evicts = made.gauge(
            "leeway_gateway_redis_evicts", "1 if Redis may throw groups away (maxmemory-policy other than noeviction)."
        )

    def know(self, fleets: Iterable[str]) -> None:
        """Fleets that may submit: their counters exist, at 0, before anything happens."""
        for fleet in set(fleets) - self._bytes.keys():
            self._bytes[fleet] = 0
            for outcome in _NAMES:
                self._answered[fleet, outcome, ""] += 0
            for reason in REASONS:
                self._answered[fleet, rollout_pb2.OUTCOME_RETRY, reason] += 0
            for metric in (self._leased, self._unleased, self._streams):
                metric.labels(fleet)

    def flushed(self, arrivals: Sequence[PendingSubmit]) -> None:
        """These groups have been answered."""
        now, wall = time.monotonic(), time.time()
        for arrival in arrivals:
            fleet, ack = arrival.fleet, arrival.ack
            outcome = ack.outcome
            self._ack.observe(now - arrival.since)
            self._heard[fleet] = wall
            if outcome == _ACCEPTED and arrival.group is not None:
                self._answered[fleet, outcome, ""] += 1
                self._bytes[fleet] += len(arrival.group.payload)
            else:
                self._answered[fleet, outcome, ack.reason] += 1

    def asked_redis(self, seconds: float) -> None:
        """A flush took so long."""
        self._redis.observe(seconds)

    def leased(self, fleet: str, groups: int) -> None:
        """A lease call was answered."""
        self._heard[fleet] = time.time()
        if groups:
            self._leased.labels(fleet).inc(groups)
        else:
            self._unleased.labels(fleet).inc()

    def stream(self, fleet: str, change: int) -> None:
        """A stream was opened (1) or has ended (-1)."""
        self._streams.labels(fleet).inc(change)

    def unauthenticated(self) -> None:
        """Somebody without credentials called."""
        self._unauthenticated.inc()

    def certificate(self, expires: float) -> None:
        """Our certificate ends then, Unix seconds."""
        self._certificate.set(expires)

    def limits(self, groups: int, size: int, bound: int) -> None:
        """The configured caps of the backlog, and the bound of what may be held."""
        self._limit.set(groups)
        self._limit_bytes.set(size)
        self._bound.set(bound)

    def queue(self, backlog: Mapping[str, Backlog], submitters: set[str]) -> None:
        """What waits, by fleet; ``submitters``: fleets that may submit now."""
        for fleet, one in backlog.items():
            self._queued.labels(fleet).set(one.queued)
            self._queued_bytes.labels(fleet).set(one.bytes)
            # A fleet of the run that has not been heard since our start counts from there; one revoked is missed by nobody.
            if fleet in submitters:
                self._heard.setdefault(fleet, self._start)
            else:
                self._heard.pop(fleet, None)

    def occupancy(self, occupancy: Occupancy) -> None:
        """How far the learner is, and who holds what."""
        self._step.set(occupancy.step)
        if occupancy.step > self._highest_step:
            if self._highest_step >= 0:
                self._stepped.set_to_current_time()
            self._highest_step = occupancy.step
        for fleet, groups in occupancy.held.items():
            self._held.labels(fleet).set(groups)

    def ledgers(self, ledgers: Iterable[rollout_pb2.Ledger]) -> None:
        """Every fleet's account."""
        for ledger in ledgers:
            for entry in (*_COUNTED, *_WAITING):
                self._ledger.labels(ledger.fleet, entry).set(getattr(ledger, entry))
            self._violations.labels(ledger.fleet).set(len(check(ledger)) - bool(ledger.lost))

    def memory(self, memory: Memory) -> None:
        """Redis's own."""
        self._memory.set(memory.used)
        self._max_memory.set(memory.most or float("inf"))
        self._evicts.set(memory.evicts)

    def _by_outcome(self) -> Readings:
        counts: Counter[tuple[str, ...]] = Counter()
        for (fleet, outcome, _), count in dict(self._answered).items():
            counts[fleet, _NAMES[outcome]] += count
        return counts

    def _by_reason(self) -> Readings:
        answered = dict(self._answered).items()
        return {(fleet, _NAMES[outcome], reason): count for (fleet, outcome, reason), count in answered if reason}

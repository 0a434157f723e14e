"""Prometheus metrics of a gateway. deploy/metrics.md lists them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from learner.gateway.byte_budget import ByteBudget
from learner.gateway.fleet_certificates import FleetCertificates
from learner.gateway.health import GatewayHealth
from learner.gateway.operator_metrics import OperatorMetrics
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.retry_reasons import REASONS
from learner.gateway.violation import TOO_STALE
from learner.queue import Backlog, Memory, Occupancy, imbalances
from leeway.v1 import rollout_pb2
from runtime.metric_registry import MetricRegistry, Readings

_ACK_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_REDIS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_NAMES = {number: name.removeprefix("OUTCOME_").lower() for name, number in rollout_pb2.Outcome.items() if number}
_ACCEPTED = rollout_pb2.OUTCOME_ACCEPTED
_COUNTED = (
    *("received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "quarantined", "lost"),
    *("vanished", "without_contrast", "unscored"),
)
_WAITING = ("queued", "in_flight")


class GatewayMetrics:
    """Metrics of one gateway. The busy path calls ``flushed`` once per batch, which touches nothing but plain counters.

    Args:
        health: knows whether groups can be taken.

    Attributes:
        registry: every metric declared here.
        operator: metrics of what operators do.
        certificates: when the certificates expire that fleets present.
    """

    def __init__(self, health: GatewayHealth) -> None:
        self.registry = registry = MetricRegistry()
        self._start = time.time()
        self._answered: Counter[tuple[str, int, str]] = Counter()  # fleet, outcome, reason ("" where there is none)
        self._bytes: Counter[str] = Counter()
        self._routing: Counter[str] = Counter()
        self._wasted: Counter[tuple[str, str]] = Counter()  # fleet, reason of the rejection -> generated tokens
        self._unacked: Mapping[str, int] = {}
        self._heard: dict[str, float] = {}  # fleet -> Unix seconds
        self._highest_step = -1
        self._declare_service(registry, health)
        self._declare_groups(registry)
        self._declare_calls(registry)
        self._declare_queue(registry)
        self._declare_redis_file(registry)
        self._declare_evaluations(registry)
        self.operator = OperatorMetrics(registry)
        self.certificates = FleetCertificates(registry)

    def _declare_service(self, registry: MetricRegistry, health: GatewayHealth) -> None:
        """Declares what says whether this gateway can do its work."""
        registry.read(
            "leeway_gateway_ready",
            "1 while /readyz answers 200: Redis takes writes and this gateway is not draining.",
            lambda: float(health.ready() is None),
        )
        registry.read(
            "leeway_gateway_redis_write_timestamp_seconds",
            "When Redis last took a write of this gateway; 0 before the first.",
            lambda: health.written,
        )
        self._redis = registry.histogram(
            "leeway_gateway_redis_round_trip_seconds",
            "Seconds that Redis took for a batch of appends and counts.",
            _REDIS_S,
        )
        self._certificate = registry.gauge(
            "leeway_gateway_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires; +Inf without TLS.",
        )
        self._certificate.set(float("inf"))

    def _declare_groups(self, registry: MetricRegistry) -> None:
        """Declares what is counted for every group that is answered."""
        registry.read_all(
            "leeway_gateway_groups_total",
            "Groups answered, by outcome of the ack: accepted, duplicate, rejected, retry.",
            ("fleet", "outcome"),
            self._by_outcome,
        )
        registry.read_all(
            "leeway_gateway_refused_groups_total",
            "Groups answered with rejected or retry, by reason.",
            ("fleet", "outcome", "reason"),
            self._by_reason,
        )
        registry.read_all(
            "leeway_gateway_payload_bytes_total",
            "Payload bytes of accepted groups.",
            ("fleet",),
            lambda: {(fleet,): size for fleet, size in dict(self._bytes).items()},
        )
        registry.read_all(
            "leeway_gateway_routing_bytes_total",
            "Those of the payload bytes of accepted groups that say which experts their tokens were sent to.",
            ("fleet",),
            lambda: {(fleet,): size for fleet, size in dict(self._routing).items()},
        )
        registry.read_all(
            "leeway_gateway_wasted_tokens_total",
            "Generated tokens of well-formed groups that were refused: too_stale (nothing of that age is trained).",
            ("fleet", "reason"),
            lambda: dict(self._wasted),
        )
        self._ack = registry.durations(
            "leeway_gateway_ack_seconds", "Seconds from reading a group to handing out its ack.", _ACK_S
        )

    def _declare_calls(self, registry: MetricRegistry) -> None:
        """Declares what is counted for calls and streams."""
        by_fleet = ("fleet",)
        registry.read_all(
            "leeway_gateway_fleet_heard_timestamp_seconds",
            "When a fleet last sent a group or asked for a lease; the gateway's start if it has not since then.",
            by_fleet,
            lambda: {(fleet,): when for fleet, when in dict(self._heard).items()},
        )
        registry.read_all(
            "leeway_gateway_unacked_bytes",
            "Bytes of groups that were read and have no outcome yet; bounded by max_unacked_bytes.",
            by_fleet,
            lambda: {(fleet,): size for fleet, size in dict(self._unacked).items()},
        )
        self._streams = registry.gauge("leeway_gateway_streams", "Open Submit and WatchPolicy streams.", by_fleet)
        self._leased = registry.counter("leeway_gateway_leased_groups_total", "Groups granted by leases.", by_fleet)
        self._unleased = registry.counter(
            "leeway_gateway_lease_waits_total",
            "Lease calls that were granted no groups, as when the bound on staleness is reached.",
            by_fleet,
        )
        self._renewed = registry.counter(
            "leeway_gateway_lease_renewals_total",
            "Leases that workers asked to renew, by outcome: renewed, or lost (expired, used up, or as old as allowed).",
            ("fleet", "outcome"),
        )
        self._unauthenticated = registry.counter(
            "leeway_gateway_auth_failures_total", "Calls whose token or certificate belongs to no fleet."
        )

    def _declare_queue(self, registry: MetricRegistry) -> None:
        """Declares what is read from Redis every few seconds, and is equal on all gateways of a run."""
        by_fleet = ("fleet",)
        self._queued = registry.gauge("leeway_gateway_queue_groups", "Groups that wait for the learner.", by_fleet)
        self._queued_bytes = registry.gauge(
            "leeway_gateway_queue_bytes", "Payload bytes of groups that wait or are in training.", by_fleet
        )
        self._limit = registry.gauge(
            "leeway_gateway_queue_limit_groups", "Backlog in groups above which groups get RETRY."
        )
        self._limit_bytes = registry.gauge(
            "leeway_gateway_queue_limit_bytes", "Backlog in payload bytes above which groups get RETRY."
        )
        self._drained = registry.gauge(
            "leeway_gateway_drained_fleets", "Fleets that operators have drained: their leases are granted no groups."
        )
        self._declare_shares(registry)
        self._finished = registry.gauge(
            "leeway_gateway_run_finished",
            "1 if the run has made all its steps and takes no more groups: what it waits for will not come.",
        )
        self._bound = registry.gauge(
            "leeway_gateway_capacity_groups",
            "The most groups that may be leased, queued or in an unfinished step: (max_staleness + 1) times what a step "
            "consumes, which is groups_per_step or more.",
        )
        self._step = registry.gauge("leeway_gateway_step", "Optimizer step that the learner last reported.")
        self._stepped = registry.gauge(
            "leeway_gateway_step_timestamp_seconds",
            "When the learner's step last exceeded its highest value so far; the gateway's start before that.",
        )
        self._stepped.set(self._start)
        self._ledger = registry.gauge(
            "leeway_gateway_ledger_groups",
            "Entries of a fleet's ledger: received, accepted, duplicate, rejected, retried, trained, expired, "
            "quarantined, lost, vanished, queued, in_flight; and of those trained: without_contrast, unscored.",
            ("fleet", "entry"),
        )
        self._unscored = registry.gauge(
            "leeway_gateway_unscored_responses",
            "Responses of accepted groups that nobody judged, by the reason that the fleet gave: at most 64 of a fleet, then "
            "other.",
            ("fleet", "reason"),
        )
        self._violations = registry.gauge(
            "leeway_gateway_ledger_violations",
            "Rules by which a fleet's ledger does not balance, apart from lost groups.",
            by_fleet,
        )
        self._memory = registry.gauge("leeway_gateway_redis_memory_used_bytes", "Memory that Redis uses (used_memory).")
        self._max_memory = registry.gauge(
            "leeway_gateway_redis_memory_max_bytes", "Memory that Redis may use (maxmemory); +Inf without a limit."
        )
        self._evicts = registry.gauge(
            "leeway_gateway_redis_evicts", "1 if Redis may evict groups (maxmemory-policy other than noeviction)."
        )

    def _declare_redis_file(self, registry: MetricRegistry) -> None:
        """Declares how large Redis' file is, which is equal on all gateways of a run."""
        self._file = registry.gauge(
            "leeway_gateway_redis_file_bytes", "Size of Redis' append-only file (aof_current_size); NaN without one."
        )
        self._file.set(math.nan)
        self._rewritten = registry.gauge(
            "leeway_gateway_redis_file_rewrite_succeeded", "1 if the last rewrite of Redis' append-only file succeeded."
        )
        self._rewritten.set(math.nan)

    def _declare_evaluations(self, registry: MetricRegistry) -> None:
        """Declares what the versions are worth, which is read from Redis and is equal on all gateways of a run."""
        self._evaluations: Readings = {}
        registry.read_all(
            "leeway_gateway_evaluation",
            "What the newest evaluated version is worth, by metric of the evaluation; at most 64 names and samplings.",
            ("name", "sampling", "metric"),
            lambda: self._evaluations,
        )
        self._evaluated = registry.gauge(
            "leeway_gateway_evaluated_version",
            "Newest version that an evaluation was reported of; NaN before the first.",
        )
        self._evaluated.set(math.nan)

    def _declare_shares(self, registry: MetricRegistry) -> None:
        """Declares how the capacity is shared between the fleets, which is equal on all gateways of a run."""
        by_fleet = ("fleet",)
        self._occupied = registry.gauge(
            "leeway_gateway_capacity_held_groups",
            "Groups leased, queued, or in a training step that is not done yet.",
            by_fleet,
        )
        self._share = registry.gauge(
            "leeway_gateway_capacity_share_groups",
            "The most groups that the fleet may hold now: all while no other fleet waits for a lease.",
            by_fleet,
        )
        self._without_lease = registry.gauge(
            "leeway_gateway_unleased_groups", "Queued groups that came without a valid lease.", by_fleet
        )
        self._hungry = registry.gauge(
            "leeway_gateway_hungry",
            "1 if the fleet asked for more than it was granted in the last 3 seconds.",
            by_fleet,
        )
        self._use = registry.gauge(
            "leeway_gateway_lease_use_ratio",
            "Fraction of its leased groups that the fleet lately submitted before the lease expired, by which its weight is "
            "multiplied (at least by 1/16).",
            by_fleet,
        )

    def watch(self, budget: ByteBudget) -> None:
        """Shows what the budget holds from now on."""
        self._unacked = budget.held

    def add_fleets(self, fleets: Iterable[str]) -> None:
        """Makes the counters of these fleets exist, at 0, before anything happens."""
        self.certificates.add_fleets(fleets)
        for fleet in set(fleets) - self._bytes.keys():
            self._bytes[fleet] = self._routing[fleet] = 0
            self._wasted[fleet, TOO_STALE] += 0
            for outcome in _NAMES:
                self._answered[fleet, outcome, ""] += 0
            for reason in REASONS:
                self._answered[fleet, rollout_pb2.OUTCOME_RETRY, reason] += 0
            for metric in (self._leased, self._unleased, self._streams):
                metric.labels(fleet)
            for outcome in ("renewed", "lost"):
                self._renewed.labels(fleet, outcome)

    def flushed(self, submits: Sequence[PendingSubmit]) -> None:
        """Counts a batch of groups whose acks have been delivered."""
        now, wall = time.monotonic(), time.time()
        for submit in submits:
            fleet, ack = submit.fleet, submit.ack
            outcome = ack.outcome
            self._ack.observe(now - submit.since)
            self._heard[fleet] = wall
            if outcome == _ACCEPTED and submit.group is not None:
                self._answered[fleet, outcome, ""] += 1
                self._bytes[fleet] += len(submit.group.payload)
                self._routing[fleet] += submit.routing
            else:
                self._answered[fleet, outcome, ack.reason] += 1
                if submit.wasted:
                    self._wasted[fleet, ack.reason] += submit.wasted

    def asked_redis(self, seconds: float) -> None:
        """Records the duration of one flush."""
        self._redis.observe(seconds)

    def leased(self, fleet: str, groups: int) -> None:
        """Counts a lease call that was granted ``groups`` groups, 0 or more."""
        self._heard[fleet] = time.time()
        if groups:
            self._leased.labels(fleet).inc(groups)
        else:
            self._unleased.labels(fleet).inc()

    def renewed(self, fleet: str, leases: int, lost: int) -> None:
        """Counts a lease call that asked to renew ``leases`` leases, of which ``lost`` could not be."""
        self._heard[fleet] = time.time()
        self._renewed.labels(fleet, "renewed").inc(leases - lost)
        self._renewed.labels(fleet, "lost").inc(lost)

    def stream(self, fleet: str, change: int) -> None:
        """Counts a stream that was opened (``change`` 1) or has ended (-1)."""
        self._streams.labels(fleet).inc(change)

    def unauthenticated(self) -> None:
        """Counts a call without valid credentials."""
        self._unauthenticated.inc()

    def certificate(self, expires: float) -> None:
        """Shows when the gateway's certificate expires, in Unix seconds."""
        self._certificate.set(expires)

    def limits(self, groups: int, size: int, bound: int) -> None:
        """Shows the backlog's caps in groups and in bytes, and the staleness bound in groups."""
        self._limit.set(groups)
        self._limit_bytes.set(size)
        self._bound.set(bound)

    def drained(self, fleets: Collection[str]) -> None:
        """Shows how many fleets operators have drained."""
        self._drained.set(len(fleets))

    def queue(self, backlog: Mapping[str, Backlog], submitters: set[str]) -> None:
        """Shows the backlog by fleet; ``submitters`` are the fleets that may submit now."""
        for fleet, one in backlog.items():
            self._queued.labels(fleet).set(one.queued)
            self._queued_bytes.labels(fleet).set(one.bytes)
            # A fleet that has sent nothing since the gateway's start counts from there; a revoked one is no longer expected.
            if fleet in submitters:
                self._heard.setdefault(fleet, self._start)
            else:
                self._heard.pop(fleet, None)

    def occupancy(self, occupancy: Occupancy, shares: Mapping[str, int], bound: int) -> None:
        """Shows the learner's step, the capacity in groups, what each fleet has of it, and the most it may have."""
        self._step.set(occupancy.step)
        self._bound.set(bound)
        if occupancy.step > self._highest_step:
            if self._highest_step >= 0:
                self._stepped.set_to_current_time()
            self._highest_step = occupancy.step
        for fleet, groups in occupancy.occupied.items():
            self._occupied.labels(fleet).set(groups)
            self._share.labels(fleet).set(shares[fleet])
            self._without_lease.labels(fleet).set(occupancy.unleased.get(fleet, 0))
            self._hungry.labels(fleet).set(fleet in occupancy.hungry)
            self._use.labels(fleet).set(occupancy.use.get(fleet, 1.0))

    def ended(self, finished: bool) -> None:
        """Shows whether the run has made all its steps."""
        self._finished.set(finished)

    def ledgers(self, ledgers: Iterable[rollout_pb2.Ledger]) -> None:
        """Shows the entries of every fleet's ledger, and the rules by which it does not balance."""
        for ledger in ledgers:
            for entry in (*_COUNTED, *_WAITING):
                self._ledger.labels(ledger.fleet, entry).set(getattr(ledger, entry))
            # "other" always: a fleet whose responses are all scored has a series too.
            for reason, responses in {"other": 0, **ledger.unscored_responses_by_reason}.items():
                self._unscored.labels(ledger.fleet, reason).set(responses)
            self._violations.labels(ledger.fleet).set(len(imbalances(ledger)) - bool(ledger.lost))

    def evaluations(self, newest: Sequence[rollout_pb2.Evaluation]) -> None:
        """Shows the newest evaluation of each name and sampling."""
        self._evaluations = {
            (one.name, one.sampling, metric): interval.value
            for one in newest
            for metric, interval in one.metrics.items()
        }
        if newest:
            self._evaluated.set(max(one.version for one in newest))

    def memory(self, memory: Memory) -> None:
        """Shows the memory use of Redis, its limit, whether it may evict groups, and its append-only file."""
        self._memory.set(memory.used)
        self._max_memory.set(memory.most or float("inf"))
        self._evicts.set(memory.evicts)
        self._file.set(math.nan if memory.file is None else memory.file)
        self._rewritten.set(memory.rewritten)

    def _by_outcome(self) -> Readings:
        counts: Counter[tuple[str, ...]] = Counter()
        for (fleet, outcome, _), count in dict(self._answered).items():
            counts[fleet, _NAMES[outcome]] += count
        return counts

    def _by_reason(self) -> Readings:
        answered = dict(self._answered).items()
        return {(fleet, _NAMES[outcome], reason): count for (fleet, outcome, reason), count in answered if reason}

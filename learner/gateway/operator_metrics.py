"""Metrics of what operators do at a gateway: their calls, and the identities that it knows."""

from __future__ import annotations

import grpc

from learner.gateway.auth import Identities
from leeway.v1 import operator_pb2
from runtime.metric_registry import MetricRegistry, Readings

METHODS = tuple(method.name for method in operator_pb2.DESCRIPTOR.services_by_name["OperatorService"].methods)
_CODES = {
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "exhausted",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.FAILED_PRECONDITION: "refused",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "late",
}
OUTCOMES = ("ok", *_CODES.values(), "cancelled", "failed")


class OperatorMetrics:
    """Metrics of leeway.v1.OperatorService.

    Args:
        registry: where they are declared.
    """

    def __init__(self, registry: MetricRegistry) -> None:
        self._identities: Identities | None = None
        self._calls = registry.counter(
            "leeway_gateway_operator_calls_total",
            "Calls of leeway.v1.OperatorService, by outcome: ok, or why not (denied: the role operate is missing; refused: "
            "the state of the run forbids it; late: not done within its time; failed: a fault of the gateway).",
            ("method", "outcome"),
        )
        for method in METHODS:
            for outcome in OUTCOMES:
                self._calls.labels(method, outcome)
        registry.read_all(
            "leeway_gateway_identities",
            "Identities that the gateway knows, by source: its file, or added by operators; ignored: added ones that are "
            "damaged, or whose name or credentials the file gives to another one.",
            ("source",),
            self._by_source,
        )

    def watch(self, identities: Identities) -> None:
        """Shows how many identities there are from now on."""
        self._identities = identities

    def called(self, method: str, outcome: str) -> None:
        """Counts a call that has ended."""
        self._calls.labels(method, outcome).inc()

    def _by_source(self) -> Readings:
        known = self._identities
        counts = (0, 0, 0) if known is None else (len(known.in_file), len(known.added), known.ignored)
        return {(source,): count for source, count in zip(("file", "added", "ignored"), counts, strict=True)}


def outcome_of(code: grpc.StatusCode | None) -> str:
    """The outcome that a call is counted with that was ended with a status."""
    return _CODES.get(code, "failed") if code is not None else "failed"

"""What a gateway shows of the fleets' ledgers."""

from __future__ import annotations

from prometheus_client import generate_latest

from learner.gateway.health import GatewayHealth
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.pending_submit import PendingSubmit
from learner.queue import Append, Occupancy
from leeway.v1 import rollout_pb2 as pb


def test_groups_that_teach_nothing_and_unscored_responses_are_shown_by_fleet():
    metrics = GatewayMetrics(GatewayHealth())
    reasons = {"crash": 5, "other": 70}
    metrics.ledgers(
        [pb.Ledger(fleet="f", trained=9, without_contrast=3, unscored=2, unscored_responses_by_reason=reasons)]
    )
    page = generate_latest(metrics.registry.prometheus).decode().splitlines()
    for line in (
        'leeway_gateway_ledger_groups{entry="without_contrast",fleet="f"} 3.0',
        'leeway_gateway_ledger_groups{entry="unscored",fleet="f"} 2.0',
        'leeway_gateway_unscored_responses{fleet="f",reason="crash"} 5.0',
        'leeway_gateway_unscored_responses{fleet="f",reason="other"} 70.0',
    ):
        assert line in page


def test_a_fleet_without_unscored_responses_has_a_series_all_the_same():
    metrics = GatewayMetrics(GatewayHealth())
    metrics.ledgers([pb.Ledger(fleet="f")])
    page = generate_latest(metrics.registry.prometheus).decode().splitlines()
    assert 'leeway_gateway_unscored_responses{fleet="f",reason="other"} 0.0' in page


def test_bytes_of_experts_of_accepted_groups_are_counted():
    metrics = GatewayMetrics(GatewayHealth())
    metrics.add_fleets(["f", "g"])
    append = Append("f", "id", b"1234567890", tokens=3, generated=2, responses=2)
    submits = [
        PendingSubmit("f", pb.Ack(outcome=outcome), lambda _: None, append, routing=6)
        for outcome in (pb.OUTCOME_ACCEPTED, pb.OUTCOME_DUPLICATE, pb.OUTCOME_ACCEPTED)
    ]
    metrics.flushed(submits)
    page = generate_latest(metrics.registry.prometheus).decode().splitlines()
    assert 'leeway_gateway_routing_bytes_total{fleet="f"} 12.0' in page
    assert 'leeway_gateway_routing_bytes_total{fleet="g"} 0.0' in page


def test_tokens_of_groups_refused_for_their_age_are_counted_and_capacity_follows_what_a_step_consumes():
    metrics = GatewayMetrics(GatewayHealth())
    metrics.add_fleets(["f", "g"])
    metrics.limits(10, 10, 80)
    ack = pb.Ack(outcome=pb.OUTCOME_REJECTED, reason="too_stale")
    metrics.flushed([PendingSubmit("f", ack, lambda _: None, wasted=700)] * 2)
    metrics.occupancy(Occupancy(3, {"f": 1}, frozenset(), consumed=20), {"f": 100}, 100)
    page = generate_latest(metrics.registry.prometheus).decode().splitlines()
    assert 'leeway_gateway_wasted_tokens_total{fleet="f",reason="too_stale"} 1400.0' in page
    assert 'leeway_gateway_wasted_tokens_total{fleet="g",reason="too_stale"} 0.0' in page
    assert "leeway_gateway_capacity_groups 100.0" in page

"""What a gateway shows of the fleets' ledgers."""

from __future__ import annotations

from prometheus_client import generate_latest

from learner.gateway.health import GatewayHealth
from learner.gateway.metrics import GatewayMetrics
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

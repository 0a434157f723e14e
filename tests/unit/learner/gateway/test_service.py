"""Lease requests that are refused, with the field and value that the refusal names."""

from __future__ import annotations

from typing import Any

import pytest

from learner.gateway.service import lease_problem
from leeway.v1 import rollout_pb2 as pb


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"groups": 0}, "groups = 0: expected at least 1, or leases to renew in held_lease_ids"),
        ({"groups": 1, "worker": "w" * 65}, "at most 64 bytes"),
        ({"groups": 1, "worker": "a\x1b[2J"}, r"worker = 'a\x1b[2J': expected printable characters"),
        ({"groups": 1, "worker": "a\nb"}, r"worker = 'a\nb'"),
        ({"groups": 1, "worker": "\u202ea"}, r"worker = '\u202ea'"),
        ({"groups": 1, "returned_lease_ids": ["x"] * 1025}, "returned_lease_ids: 1025 ids, expected at most 1024"),
        ({"groups": 0, "held_lease_ids": ["x"] * 1025}, "held_lease_ids: 1025 ids, expected at most 1024"),
        ({"held_lease_ids": ["x", "y" * 65]}, r"held_lease_ids[1] = 'yyy"),
        ({"groups": 1, "returned_lease_ids": ["y" * 65]}, "returned_lease_ids[0] = 'yyy"),
    ],
)
def test_a_malformed_lease_request(fields: dict[str, Any], problem: str):
    assert problem in str(lease_problem(pb.LeaseRequest(**fields)))


@pytest.mark.parametrize("worker", ["", "w" * 64, "host-3.example:rank 7", "é"])
def test_a_worker_may_have_any_printable_name(worker: str):
    assert lease_problem(pb.LeaseRequest(groups=1, worker=worker, returned_lease_ids=["x"] * 1024)) is None


def test_a_request_that_only_reports_what_is_fetched_needs_no_groups():
    assert lease_problem(pb.LeaseRequest(worker="w", fetching_version=0)) is None


def test_a_request_that_only_gives_leases_back_needs_no_groups():
    assert lease_problem(pb.LeaseRequest(returned_lease_ids=["x"])) is None


def test_a_request_that_only_renews_needs_no_groups():
    assert lease_problem(pb.LeaseRequest(held_lease_ids=["x" * 64] * 1024)) is None

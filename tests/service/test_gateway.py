"""A gateway process over real TCP, on a real Redis."""

from __future__ import annotations

import math

import grpc
import pytest

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import tokens, valid_group


async def test_accepts_once_and_keeps_the_account(start_gateway):
    gateway = await start_gateway()
    groups = [valid_group() for _ in range(20)]
    async with gateway.connect() as fleet:
        assert await fleet.outcomes(groups) == ["ACCEPTED"] * 20
        assert await fleet.outcomes([*groups[:5], valid_group()]) == ["DUPLICATE"] * 5 + ["ACCEPTED"]
        ledger = await fleet.ledger()
    assert (ledger.fleet, ledger.received, ledger.accepted, ledger.duplicate) == ("alpha", 26, 21, 5)
    assert (ledger.queued, ledger.in_flight) == (21, 0)


@pytest.mark.parametrize(
    ("changes", "reason", "field", "value"),
    [
        ({"tokens": tokens([1, 100])}, "token_out_of_vocabulary", "responses[1].tokens[1]", "100 (allowed: 0 to 99)"),
        ({"reward": math.nan}, "reward_not_finite", "responses[1].reward", "nan (allowed: finite)"),
        ({"tokens": b"\x01\x00\x00\x00\x02"}, "tokens_truncated", "responses[1].tokens", "5 bytes (allowed: "),
    ],
)
async def test_rejects_with_field_and_value(start_gateway, changes, reason, field, value):
    gateway = await start_gateway()
    bad = valid_group()
    for name, content in changes.items():
        setattr(bad.responses[1], name, content)
    async with gateway.connect() as fleet:
        before, ack, after = await fleet.submit([valid_group(), bad, valid_group()])
        ledger = await fleet.ledger()
    assert before.outcome == after.outcome == pb.OUTCOME_ACCEPTED
    assert (ack.outcome, ack.reason, ack.field) == (pb.OUTCOME_REJECTED, reason, field)
    assert ack.value.startswith(value)
    assert (ledger.received, ledger.accepted, dict(ledger.rejected_by_reason)) == (3, 2, {reason: 1})


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_wrong_token_is_unauthenticated(start_gateway, token):
    gateway = await start_gateway()
    async with gateway.connect(token) as fleet:
        for call in (fleet.submit([valid_group()]), fleet.lease(1), fleet.ledger()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert "token" in str(caught.value.details())

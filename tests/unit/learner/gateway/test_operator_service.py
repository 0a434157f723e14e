"""Operators' calls: what is written down of a call that ends in another way than with an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from learner.gateway.operator_service import OperatorService
from leeway.v1 import operator_pb2


class Gate:
    async def caller_of_call(self, context: Any, role: str) -> Any:
        return type("Caller", (), {"fleet": "ann"})()


class Context:
    def peer(self) -> str:
        return "ipv4:10.0.0.1:5"


class Metrics:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


def service(answer: Any) -> OperatorService:
    methods = operator_pb2.DESCRIPTOR.services_by_name["OperatorService"].methods
    streams = {one.name: answer for one in methods if one.server_streaming}
    answers = {one.name: answer for one in methods if not one.server_streaming}
    return OperatorService(Gate(), answers, streams, Metrics())  # pyright: ignore[reportArgumentType]


async def test_a_change_whose_caller_goes_away_is_written_down():
    begun = asyncio.Event()

    async def slow(operator: str, request: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    message = operator_pb2.RevokeIdentityRequest(name="tokyo").SerializeToString()
    with structlog.testing.capture_logs() as lines:
        call = asyncio.create_task(service(slow).answer("RevokeIdentity", message, Context()))  # pyright: ignore
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    (line,) = [line for line in lines if line["event"] == "operator call"]
    assert (line["operator"], line["call"], line["outcome"]) == ("ann", "RevokeIdentity", "cancelled")


async def test_a_change_that_fails_unexpectedly_is_written_down():
    async def broken(operator: str, request: Any) -> Any:
        raise RuntimeError("bug")

    message = operator_pb2.PurgeQuarantineRequest().SerializeToString()
    with structlog.testing.capture_logs() as lines, pytest.raises(RuntimeError):
        await service(broken).answer("PurgeQuarantine", message, Context())  # pyright: ignore
    (line,) = [line for line in lines if line["event"] == "operator call"]
    assert (line["call"], line["outcome"]) == ("PurgeQuarantine", "failed")

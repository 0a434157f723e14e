"""Limits of streams and calls of a gateway, and the streams that it ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import grpc
import pytest

from learner.config import ConnectionConfig
from learner.gateway.auth import Identities, PresentedCredentials
from learner.gateway.connection_limits import ConnectionLimits, ExhaustedError
from learner.gateway.health import GatewayHealth
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.open_streams import OpenStreams


def test_streams_of_a_fleet_and_in_all():
    limits = ConnectionLimits(ConnectionConfig(max_streams=3, max_streams_per_fleet=2))
    limits.open("a")
    limits.open("a")
    with pytest.raises(ExhaustedError, match="max_streams_per_fleet = 2: a"):
        limits.open("a")
    limits.open("b")
    with pytest.raises(ExhaustedError, match="max_streams = 3"):
        limits.open("c")
    limits.close("a")
    limits.open("c")


def test_calls_refill_and_a_silence_earns_no_more_than_a_second():
    limits = ConnectionLimits(ConnectionConfig(calls_per_s=4))
    for now in (0.0, 100.0):
        for _ in range(4):
            limits.call("a", now)
        with pytest.raises(ExhaustedError, match="calls_per_s = 4: a calls too often") as caught:
            limits.call("a", now)
        assert caught.value.retry_after_ms == 250
        limits.call("b", now)
    limits.call("a", 100.25)
    with pytest.raises(ExhaustedError):
        limits.call("a", 100.26)


def test_a_rate_below_one_still_allows_a_call():
    limits = ConnectionLimits(ConnectionConfig(calls_per_s=0.5))
    limits.call("a", 0.0)
    with pytest.raises(ExhaustedError) as caught:
        limits.call("a", 1.0)
    assert caught.value.retry_after_ms == 1000
    limits.call("a", 2.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "identities.json"
    path.write_text(json.dumps({"a": {"sans": ["a", "also-a"]}, "b": {"sans": ["b"]}}))
    return path


def rewrite(path: Path, content: dict) -> None:
    path.write_text(json.dumps({"b": {"sans": ["b"]}, **content}))


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ({"a": {"sans": ["also-a"]}}, grpc.StatusCode.UNAUTHENTICATED, "revoked"),
        ({"c": {"sans": ["a"]}}, grpc.StatusCode.UNAUTHENTICATED, "another fleet"),
        ({"a": {"sans": ["a"], "roles": ["operate"]}}, grpc.StatusCode.PERMISSION_DENIED, "withdrawn"),
    ],
)
async def test_streams_of_the_revoked_end(path: Path, content: dict, code: grpc.StatusCode, text: str):
    identities = Identities(path)
    streams = OpenStreams(
        identities, ConnectionLimits(ConnectionConfig()), idle_s=900, metrics=GatewayMetrics(GatewayHealth())
    )
    callers = [identities.caller(PresentedCredentials(None, frozenset([name]))) for name in ("a", "b")]
    with streams.opened(callers[0], "submit") as one, streams.opened(callers[1], "submit") as other:
        streams.tick(time.monotonic())
        assert not one.closing.is_set()
        rewrite(path, content)
        streams.tick(time.monotonic())
        assert (one.closing.is_set(), other.closing.is_set()) == (True, False)
        assert one.code is code
        assert text in one.text
    await streams.wait_until_empty()


async def test_streams_of_the_revoked_end_even_if_a_call_has_read_the_new_file_first(path: Path):
    identities = Identities(path)
    metrics = GatewayMetrics(GatewayHealth())
    streams = OpenStreams(identities, ConnectionLimits(ConnectionConfig()), idle_s=900, metrics=metrics)
    caller, other = (identities.caller(PresentedCredentials(None, frozenset([name]))) for name in ("a", "b"))
    with streams.opened(caller, "submit") as stream:
        rewrite(path, {})
        identities.caller(other.credentials)
        streams.tick(time.monotonic())
        assert stream.closing.is_set()
        assert streams.by_fleet() == {"a": 1}


async def test_only_idle_streams_end_as_idle(path: Path):
    identities = Identities(path)
    streams = OpenStreams(
        identities, ConnectionLimits(ConnectionConfig()), idle_s=10, metrics=GatewayMetrics(GatewayHealth())
    )
    caller = identities.caller(PresentedCredentials(None, frozenset(["a"])))
    counts = {"busy": 0, "idle": 0}
    start = time.monotonic()
    with (
        streams.opened(caller, "submit", lambda: counts["busy"]) as busy,
        streams.opened(caller, "submit", lambda: counts["idle"]) as idle,
        streams.opened(caller, "submit") as watch,
    ):
        for second in (4, 8, 12):
            counts["busy"] += 1
            streams.tick(start + second)
        assert (busy.closing.is_set(), idle.closing.is_set(), watch.closing.is_set()) == (False, True, False)
        assert (idle.code, "idle" in idle.text) == (grpc.StatusCode.UNAVAILABLE, True)

"""Checks a fleet: serves a scripted gateway until the fleet has lived through the script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio

from learner.config import LimitsConfig
from learner.conformance.report import Report
from learner.conformance.script import SCRIPT
from learner.conformance.scripted_gateway import ScriptedGateway
from leeway.v1 import rollout_pb2, rollout_pb2_grpc
from runtime.settings import SettingsError

_SETTLE_S = 2.0


@dataclass(frozen=True)
class FleetCheck:
    """What a fleet is checked with.

    Attributes:
        address: host:port to listen on.
        token: the bearer token that the fleet was given.
        limits: the run's limits that it is told.
        timeout_s: time in which it has to live through the script.
        weights: URI of a published version's directory for fleets that load weights; empty: a place that does not exist.
        newer_s: time in which it has to use a new version.
        leave_s: time in which it has to end after the run has.
    """

    address: str
    token: str
    limits: LimitsConfig
    timeout_s: float = 120.0
    weights: str = ""
    newer_s: float = 30.0
    leave_s: float = 30.0


async def check_fleet(check: FleetCheck, listening: Callable[[str], None] = lambda address: None) -> Report:
    """Serves the script to a fleet that connects, and returns what was found.

    Args:
        check: what it is checked with.
        listening: called with host:port once the gateway can be reached.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    gateway = ScriptedGateway(check.token, check.limits, _policies(check.weights))
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", check.limits.max_message_bytes)])
    rollout_pb2_grpc.add_RolloutServiceServicer_to_server(gateway, server)
    host = check.address.rpartition(":")[0]
    try:
        port = server.add_insecure_port(check.address)
    except RuntimeError as error:
        raise SettingsError(f"{check.address}: cannot be listened on: {error}") from error
    await server.start()
    listening(f"{host}:{port}")
    try:
        await _play(gateway, check)
    finally:
        await server.stop(grace=1.0)
    return gateway.report


async def _play(gateway: ScriptedGateway, check: FleetCheck) -> None:
    try:
        async with asyncio.timeout(check.timeout_s):
            await gateway.until_played(check.newer_s)
    except TimeoutError:
        owed = [group for group, received in gateway.script.groups.items() if received.owed]
        seen = len(gateway.script.groups)
        gateway.report.broken(
            "resend" if owed else "valid",
            f"within {check.timeout_s:g} s {seen} of {len(SCRIPT)} groups came"
            + (f", and {len(owed)} without a final ack did not come again, such as {owed[0]}" if owed else ""),
        )
    fates = {received.fate for received in gateway.script.groups.values() if received.done and not received.owed}
    for fate, rule in (("accept", "accepted"), ("lose_ack", "duplicate"), ("reject", "rejected")):
        if fate in fates:  # and if one of them came again, the rule is broken already
            gateway.report.kept(rule)
    await gateway.finish()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(check.leave_s):
            await gateway.until_left()
    await asyncio.sleep(min(_SETTLE_S, check.leave_s))  # between two streams a fleet looks as if it had ended
    left = not gateway.calls
    gateway.report.check("finished", left, f"a Submit stream was open {check.leave_s:g} s after the run had finished")


def _policies(weights: str) -> list[rollout_pb2.Policy]:
    """Returns the versions to announce: two, or one if there are weights of one only."""
    if weights:
        return [rollout_pb2.Policy(version=1, step=1, epoch=1, uri=weights)]
    return [
        rollout_pb2.Policy(version=version, step=version, epoch=1, uri=f"file:///nonexistent/weight_v{version:06d}")
        for version in (1, 2)
    ]

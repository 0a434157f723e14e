"""Servers that a worker needs and that run elsewhere: gateways, and SGLang behind `engine.urls`."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.subject import Subject
from learner.cli.doctor.versions import judged

_ASK_S = 2.0


def peers(subject: Subject) -> Iterator[Finding]:
    """They answer, and SGLang is of the release we know. In a run file the gateway is our own, not started yet."""
    for worker in subject.workers:
        if subject.kind == "worker":
            for address in worker.gateway.split(","):
                yield _gateway(address.strip())
        for url in worker.engine.urls:
            yield _engine(url.rstrip("/"))


def _gateway(address: str) -> Finding:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return fail("gateway", f"gateway = {address!r}", "expected host:port, or several with commas between")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ASK_S):
            return ok("gateway", f"{address} accepts connections")
    except (OSError, OverflowError) as error:
        text = f"{address}: {getattr(error, 'strerror', None) or error}"
        return warn(
            "gateway", text, "start it, or see the address, its Service and NetworkPolicies; the worker waits for it"
        )


def _engine(url: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{url}/get_server_info", timeout=_ASK_S) as answer:
            version = json.load(answer).get("version")
    except (OSError, urllib.error.URLError, ValueError) as error:
        text = f"{url}: {getattr(error, 'reason', None) or error}"
        return warn("engine", text, "start it, or see engine.urls; the worker waits for it")
    return (
        judged("sglang", str(version))
        if version
        else warn("engine", f"{url}: does not say its version", "is it SGLang?")
    )

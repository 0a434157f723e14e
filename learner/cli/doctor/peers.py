"""Checks the servers that a worker needs and that run elsewhere: gateways, and SGLang servers in `engine.urls`."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

from learner.cli.doctor.examined_config import ExaminedConfig
from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.versions import compare_release

_TIMEOUT_S = 2.0


def peers(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that they answer, and that SGLang has a tested release.

    The gateway of a run file is not asked: `leeway up` will start it.
    """
    for worker in examined.workers:
        if examined.kind == "worker":
            for address in worker.gateway.split(","):
                yield _gateway(address.strip())
        for url in worker.engine.urls:
            yield _engine(url.rstrip("/"))


def _gateway(address: str) -> Finding:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return fail("gateway", f"gateway = {address!r}", "expected host:port, or several with commas between")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S):
            return ok("gateway", f"{address} accepts connections")
    except (OSError, OverflowError) as error:
        text = f"{address}: {getattr(error, 'strerror', None) or error}"
        fix = "start it, or check the address, its Service and the NetworkPolicies; until then the worker waits"
        return warn("gateway", text, fix)


def _engine(url: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{url}/get_server_info", timeout=_TIMEOUT_S) as answer:
            version = json.load(answer).get("version")
    except (OSError, urllib.error.URLError, ValueError) as error:
        text = f"{url}: {getattr(error, 'reason', None) or error}"
        return warn("engine", text, "start it, or correct engine.urls; until then the worker waits")
    if not version:
        return warn("engine", f"{url}: does not report a version", "check that an SGLang server listens there")
    return compare_release("sglang", str(version))

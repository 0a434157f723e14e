"""Checks the servers that a worker needs and that run elsewhere: gateways, and SGLang servers in `engine.urls`."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from learner.cli.doctor.versions import compare_release
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from runtime.served_model import config_of, difference

_TIMEOUT_S = 2.0


def peers(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that they answer, and that SGLang has a tested release and the run's model.

    The gateway of a run file is not asked: `leeway up` will start it.
    """
    for worker in examined.workers:
        if examined.kind == "worker":
            for address in worker.gateway.split(","):
                yield _gateway(address.strip())
        for url in worker.engine.urls:
            yield from _engine(url.rstrip("/"), examined, worker.engine.key_file)


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


def _engine(url: str, examined: ExaminedConfig, key_file: Path | None) -> Iterator[Finding]:
    info, problem = _ask(url, "/model_info", key_file)
    if problem:
        yield warn("engine", f"{url}: {problem}", "start it, or correct engine.urls; until then the worker waits")
        return
    if examined.model is not None:
        yield _served_model(url, info, examined.model)
    version = _ask(url, "/server_info", key_file)[0].get("version")
    if not version:
        yield warn("engine", f"{url}: does not report a version", "check that an SGLang server listens there")
        return
    yield compare_release("sglang", str(version))


def _served_model(url: str, info: Mapping[str, Any], model: Path) -> Finding:
    different = difference(info, model)
    if different is not None:
        return fail("engine", f"{url}: {different}", "start it with the run's model, or remove it from engine.urls")
    path = info.get("model_path")
    if isinstance(path, str) and config_of(Path(path)) is not None:
        return ok("engine", f"{url}: serves {path}, a model of the same sizes")
    return warn(
        "engine",
        f"{url}: serves {path}, type {info.get('model_type')}, which cannot be read here",
        f"make sure that it is the model in {model}: weights of another size kill the server",
    )


def _ask(url: str, path: str, key_file: Path | None) -> tuple[dict[str, Any], str]:
    """What a server answers to a GET, and why that is nothing."""
    try:
        headers = {} if key_file is None else {"Authorization": f"Bearer {key_file.read_text().strip()}"}
        request = urllib.request.Request(url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            values = json.load(answer)
    except (OSError, urllib.error.URLError, ValueError) as error:
        return {}, str(getattr(error, "reason", None) or error) or type(error).__name__
    return (values, "") if isinstance(values, dict) else ({}, f"{path} is no JSON object")

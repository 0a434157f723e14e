"""Policy on how Kubernetes learns that a process has started, lives, and can serve."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import SERVICES, Pod, pods

# Of our own processes: what each probe asks. The others have one question for all.
_PATHS = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
_OURS = {"gateway", "learner", "worker"}
_PATIENCE_S = 20  # of liveness, at the least: a pause is no reason to lose what a process holds


def probes(objects: list[Object]) -> list[str]:
    """Checks that every container that serves has the three probes, ours on the status port, each with a timeout."""
    return [
        f"{pod.where} {item['name']}: {problem}"
        for pod in pods(objects)
        if pod.component in SERVICES
        for item in pod.containers()
        for problem in _probes(pod, item)
    ]


def _probes(pod: Pod, container: Object) -> Iterator[str]:
    own = {port["name"] for port in container.get("ports", [])}
    for kind, path in _PATHS.items():
        probe = container.get(kind)
        if probe is None:
            yield f"no {kind}"
            continue
        call = probe.get("httpGet")
        if call is None and "exec" not in probe:
            yield f"{kind} asks nothing: expected httpGet or exec"
        if call is not None and call["port"] not in own:
            yield f"{kind}: the container has no port {call['port']}"
        if container["name"] in _OURS and (call or {}) != {"path": path, "port": "status"}:
            yield f"{kind}: expected {path} on the port status"
        if "timeoutSeconds" not in probe or "periodSeconds" not in probe:
            yield f"{kind}: no period or no timeout"
    alive = container.get("livenessProbe", {})
    if alive.get("periodSeconds", 10) * alive.get("failureThreshold", 3) < _PATIENCE_S:
        yield f"livenessProbe gives up within {_PATIENCE_S} s"
    # A worker is not ready for the second of each refit.
    if container["name"] == "worker" and container.get("readinessProbe", {}).get("failureThreshold", 0) < 3:
        yield "readinessProbe does not outlast a refit: failureThreshold below 3"

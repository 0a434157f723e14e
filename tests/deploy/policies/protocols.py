"""Policy on the protocols that Services name: what a mesh or an ingress may do with a gateway's connections."""

from __future__ import annotations

from collections.abc import Iterator

from learner.config import GatewayConfig
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import of_kind, processes
from tests.deploy.workloads import named, selects


def protocols(objects: list[Object]) -> list[str]:
    """Checks that Services in front of gateways say https where TLS ends in the gateway, h2c where there is none.

    A LoadBalancer says neither: a cloud's balancer would take it for its own health check.
    """
    found, _ = processes(objects)
    return [
        f"Service/{name}: {problem}"
        for process, config in of_kind(found, GatewayConfig)
        for name, item in named(objects, "Service").items()
        if selects({"matchLabels": item["spec"]["selector"]}, process.pod.labels)
        for problem in _service(item, tls=config.tls is not None)
    ]


def _service(item: Object, tls: bool) -> Iterator[str]:
    right = None if item["spec"].get("type") == "LoadBalancer" else "https" if tls else "kubernetes.io/h2c"
    for port in item["spec"]["ports"]:
        if (said := port.get("appProtocol")) != right:
            place = "in" if tls else "before"
            yield f"appProtocol of port {port['name']} is {said}, not {right}: TLS ends {place} the gateway"

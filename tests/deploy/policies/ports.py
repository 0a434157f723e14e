"""Policy on ports: names that are referred to exist, and their numbers are those of the configuration."""

from __future__ import annotations

from collections.abc import Iterator

from learner.cli.run.sections import RunSection
from learner.config import GatewayConfig
from rollout.config import EngineConfig
from runtime.endpoint_config import GATEWAY_OFFSET, LEARNER_OFFSET, WORKER_OFFSET
from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods, selects

_STATUS: int = RunSection.model_fields["status_port"].default
_GRPC = int(GatewayConfig.model_fields["listen"].default.rpartition(":")[2])
_ENGINE: int = EngineConfig.model_fields["base_port"].default
# Of every container that has one of these names: port name -> number.
EXPECTED = {
    "gateway": {"grpc": _GRPC, "status": _STATUS + GATEWAY_OFFSET},
    "learner": {
        "status": _STATUS + LEARNER_OFFSET,
        "rendezvous": 29_400,
        **{f"status-{rank}": _STATUS + LEARNER_OFFSET + rank for rank in range(1, 8)},
    },
    "worker": {"status": _STATUS + WORKER_OFFSET},
    "engine": {"engine": _ENGINE},
    "redis": {"redis": 6379},
    "exporter": {"status": 9121},
}


def ports(objects: list[Object]) -> list[str]:
    """Checks numbers against the configuration, names for uniqueness, and services, annotations and policies against both."""
    found = pods(objects)
    wrong = [f"{pod.where}: {problem}" for pod in found for problem in _numbers(pod)]
    wrong += [
        f"Service/{name}: {problem}"
        for name, item in named(objects, "Service").items()
        for problem in _service(item, found)
    ]
    wrong += [
        f"NetworkPolicy/{name}: {problem}"
        for name, item in named(objects, "NetworkPolicy").items()
        for problem in _policy(item, found)
    ]
    return wrong + [
        f"PodMonitor/{name}: {problem}"
        for name, item in named(objects, "PodMonitor").items()
        for problem in _monitor(item, found)
    ]


def _numbers(pod: Pod) -> Iterator[str]:
    names = [port["name"] for item in pod.containers() for port in item.get("ports", [])]
    if len(names) != len(set(names)):
        yield "two ports have one name"
    for item in pod.containers():
        for port in item.get("ports", []):
            expected = EXPECTED.get(item["name"], {}).get(port["name"])
            if port["containerPort"] != expected:
                yield f"{item['name']}: port {port['name']} is {port['containerPort']}, by the configuration {expected}"
    scraped = pod.annotations.get("prometheus.io/port")
    if scraped is not None and scraped != str(pod.ports().get("status")):
        yield f"prometheus.io/port is {scraped}, its status port {pod.ports().get('status')}"


def _service(service: Object, found: list[Pod]) -> Iterator[str]:
    behind = [pod for pod in found if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
    if not behind:
        yield "selects no pod"
    for port in service["spec"]["ports"]:
        for pod in behind:
            target = port["targetPort"]
            if target not in pod.ports():
                yield f"{pod.where} has no port {target}"
            elif pod.ports()[target] != port["port"]:
                yield f"listens on {port['port']}, {pod.where} on {pod.ports()[target]}"


def _policy(policy: Object, found: list[Pod]) -> Iterator[str]:
    """Checks that ingress rules name ports that some pod has; ranges may go beyond."""
    here = [pod for pod in found if selects(policy["spec"]["podSelector"], pod.labels)]
    numbers = {number for pod in here for number in pod.ports().values()}
    for rule in policy["spec"].get("ingress", []):
        for port in rule.get("ports", []):
            if port["port"] not in numbers:
                yield f"lets in to port {port['port']}, which no pod of it has"


def _monitor(monitor: Object, found: list[Pod]) -> Iterator[str]:
    here = [pod for pod in found if selects(monitor["spec"]["selector"], pod.labels)]
    asked = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for pod in here:
        for name in pod.ports():
            if name.startswith("status") and name not in asked:
                yield f"does not ask {pod.where} on its port {name}"
    if monitor["spec"].get("jobLabel") != "app.kubernetes.io/component":
        yield "job is not the component"

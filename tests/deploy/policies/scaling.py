"""Policy on selectors, disruption budgets and queues: they name pods and objects that exist."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods, selects

_LABELS = (
    *("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of"),
    "leeway.dev/run",
)
_COMPONENTS = {"gateway", "learner", "rollout", "engine", "redis", "prepare", "backup"}
_GPU = "nvidia.com/gpu"
_QUEUE = "kueue.x-k8s.io/queue-name"


def scaling(objects: list[Object]) -> list[str]:
    """Checks labels, selectors, and budgets (a node must be drainable)."""
    found = pods(objects)
    wrong = [f"{pod.where}: {problem}" for pod in found for problem in _pod(pod, objects)]
    for name, budget in named(objects, "PodDisruptionBudget").items():
        covered = [pod for pod in found if selects(budget["spec"]["selector"], pod.labels)]
        if not covered:
            wrong.append(f"PodDisruptionBudget/{name}: selects no pod")
        if budget["spec"].get("maxUnavailable") == 0:
            wrong.append(f"PodDisruptionBudget/{name}: no node can ever be drained")
    queues = named(objects, "LocalQueue")
    for item in objects:
        queue = item["metadata"].get("labels", {}).get(_QUEUE)
        if queue is not None and queue not in queues:
            wrong.append(f"{item['kind']}/{item['metadata']['name']}: there is no LocalQueue {queue}")
        if (
            queues
            and queue is None
            and any(_GPU in one["resources"]["limits"] for pod in pods([item]) for one in pod.containers())
        ):
            wrong.append(f"{item['kind']}/{item['metadata']['name']}: is not queued, its pods may start one by one")
    return wrong


def _pod(pod: Pod, objects: list[Object]) -> Iterator[str]:
    for label in _LABELS:
        if label not in pod.labels:
            yield f"has no label {label}"
    if pod.component not in _COMPONENTS:
        yield f"component {pod.component!r} is none of {sorted(_COMPONENTS)}"
    spec = pod.owner["spec"]
    if "selector" in spec and not selects(spec["selector"], pod.labels):
        yield "its controller's selector does not match it"
    service = spec.get("serviceName")
    if pod.owner["kind"] == "StatefulSet" and service not in named(objects, "Service"):
        yield f"its service {service} does not exist"
    for spread in pod.spec.get("topologySpreadConstraints", []):
        if not selects(spread["labelSelector"], pod.labels):
            yield "is spread by labels that it does not have"
    if pod.component == "gateway" and not pod.spec.get("topologySpreadConstraints"):
        yield "gateways may all be on one node"
    affinity = pod.spec.get("affinity", {}).get("podAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    for term in terms:
        if not any(selects(term["labelSelector"], other.labels) for other in pods(objects)):
            yield "must be beside pods that do not exist"

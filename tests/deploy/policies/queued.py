"""Policy on Kueue: the shared quota holds a run, covers what its pods ask for, and the learner gets it before engines."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods, quantity

_QUEUE = "kueue.x-k8s.io/queue-name"


def queued(objects: list[Object]) -> list[str]:
    """Checks preemption, flavors and quota of the ClusterQueue that a run's queue names; no queue, no findings."""
    wrong = []
    for name, queue in named(objects, "LocalQueue").items():
        cluster = named(objects, "ClusterQueue").get(queue["spec"]["clusterQueue"])
        if cluster is None:
            wrong.append(f"LocalQueue/{name}: there is no ClusterQueue {queue['spec']['clusterQueue']}")
            continue
        waiting = [pod for pod in pods(objects) if pod.owner["metadata"].get("labels", {}).get(_QUEUE) == name]
        where = f"ClusterQueue/{cluster['metadata']['name']}"
        wrong += [f"{where}: {problem}" for problem in _preemption(cluster["spec"].get("preemption", {}), objects)]
        wrong += [f"{where}: {problem}" for problem in _quota(cluster["spec"]["resourceGroups"], waiting)]
        wrong += list(_flavors(cluster["spec"]["resourceGroups"], objects, waiting))
    return wrong


def _preemption(rules: Object, objects: list[Object]) -> Iterator[str]:
    if rules.get("withinClusterQueue") != "LowerPriority":
        yield "the learner waits for engines that run: expected withinClusterQueue LowerPriority"
    if rules.get("reclaimWithinCohort") != "Any":
        yield "quota that was lent to others does not come back: expected reclaimWithinCohort Any"
    values = {name: item["value"] for name, item in named(objects, "PriorityClass").items()}
    if not values["leeway-rollout"] < values["leeway-learner"] < values["leeway-queue"]:
        yield f"the learner's priority is not above the rollout's, or above the queue's: {values}"


def _quota(groups: list[Object], waiting: list[Pod]) -> Iterator[str]:
    covered = {name for group in groups for name in group["coveredResources"]}
    quotas: dict[str, float] = {}
    for group in groups:
        for item in (item for flavor in group["flavors"] for item in flavor["resources"]):
            quotas[item["name"]] = quotas.get(item["name"], 0) + quantity(item["nominalQuota"])
    asked: dict[str, float] = {}
    for pod in waiting:
        for name, value in ((name, value) for item in pod.containers() for name, value in _requests(item)):
            asked[name] = asked.get(name, 0) + quantity(value) * (pod.count or 1)
    for name, value in sorted(asked.items()):
        if name not in covered:
            yield f"does not cover {name}, which pods ask for: it would admit none of them"
        elif value > quotas.get(name, 0):
            yield f"its quota of {name} is {quotas.get(name, 0):g}, the run asks for {value:g}"


def _requests(container: Object) -> Iterator[tuple[str, object]]:
    yield from container["resources"]["requests"].items()


def _flavors(groups: list[Object], objects: list[Object], waiting: list[Pod]) -> Iterator[str]:
    flavors, topologies = named(objects, "ResourceFlavor"), named(objects, "Topology")
    for name in {flavor["name"] for group in groups for flavor in group["flavors"]}:
        spec = flavors.get(name, {}).get("spec", {})
        if not spec.get("nodeLabels"):
            yield f"ResourceFlavor/{name}: no node labels, so that any node counts as one of it"
        if (topology := spec.get("topologyName")) not in topologies:
            yield f"ResourceFlavor/{name}: there is no Topology {topology}"
        for taint in spec.get("nodeTaints", []):
            for pod in waiting:
                if not any(item.get("key") == taint["key"] for item in pod.spec.get("tolerations", [])):
                    yield f"ResourceFlavor/{name}: {pod.where} tolerates no {taint['key']}"

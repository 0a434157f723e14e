"""Pods as the rendered objects describe them, whatever controller makes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.deploy.manifests import Object

# What controllers put into a container's environment.
INJECTED = {
    "LeaderWorkerSet": {"LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"},
    "JobSet": {"JOB_COMPLETION_INDEX"},
    "Job": {"JOB_COMPLETION_INDEX"},
}
# Processes that serve until they are stopped; other pods run to their end.
SERVICES = ("gateway", "learner", "rollout", "engine", "redis")
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True)
class Pod:
    """A pod template.

    Attributes:
        where: Kind/name of what makes it, with the role where a kind has several templates.
        count: how many there are at once; None where an autoscaler decides.
        owner: the object that makes it.
    """

    where: str
    owner: Object
    template: Object
    count: int | None

    @property
    def spec(self) -> Object:
        return self.template["spec"]

    @property
    def labels(self) -> dict[str, str]:
        return self.template.get("metadata", {}).get("labels", {})

    @property
    def annotations(self) -> dict[str, str]:
        return self.template.get("metadata", {}).get("annotations", {})

    @property
    def component(self) -> str:
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def claims(self) -> set[str]:
        """Names of the volumes that a StatefulSet makes for the pod."""
        return {item["metadata"]["name"] for item in self.owner["spec"].get("volumeClaimTemplates", [])}

    def containers(self) -> list[Object]:
        return self.spec.get("containers", [])

    def everything(self) -> list[Object]:
        """All containers, init containers included."""
        return [*self.spec.get("initContainers", []), *self.containers()]

    def ports(self) -> dict[str, int]:
        """Port name -> number, of all containers."""
        return {port["name"]: port["containerPort"] for item in self.containers() for port in item.get("ports", [])}

    def container(self, name: str) -> Object:
        return next(item for item in self.containers() if item["name"] == name)


def pods(objects: list[Object]) -> list[Pod]:
    """Every pod template among the objects."""
    return [pod for item in objects for pod in _pods(item)]


def _pods(item: Object) -> Iterator[Pod]:
    where, spec = f"{item['kind']}/{item['metadata']['name']}", item.get("spec", {})
    if item["kind"] in ("Deployment", "StatefulSet"):
        yield Pod(where, item, spec["template"], spec.get("replicas"))
    elif item["kind"] == "Job":
        yield Pod(where, item, spec["template"], spec.get("parallelism", 1))
    elif item["kind"] == "CronJob":
        yield Pod(where, item, spec["jobTemplate"]["spec"]["template"], 1)
    elif item["kind"] == "JobSet":
        for job in spec["replicatedJobs"]:
            inner = job["template"]["spec"]
            count = job.get("replicas", 1) * inner.get("parallelism", 1)
            yield Pod(f"{where}/{job['name']}", item, inner["template"], count)
    elif item["kind"] == "LeaderWorkerSet":
        group, replicas = spec["leaderWorkerTemplate"], spec.get("replicas", 1)
        yield Pod(f"{where}/leader", item, group["leaderTemplate"], replicas)
        yield Pod(f"{where}/worker", item, group["workerTemplate"], replicas * (group["size"] - 1))


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    """Returns name -> object, for the objects of a kind."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector matches the labels; the empty selector matches all."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        _satisfies(rule, labels) for rule in selector.get("matchExpressions", [])
    )


def _satisfies(rule: Object, labels: dict[str, str]) -> bool:
    present = rule["key"] in labels
    if rule["operator"] in ("In", "NotIn"):
        return (labels.get(rule["key"]) in rule["values"]) == (rule["operator"] == "In")
    return present == (rule["operator"] == "Exists")


def variables(container: Object) -> set[str]:
    """Names of the $(VARIABLES) in a container's command and arguments."""
    words = [*container.get("command", []), *container.get("args", [])]
    return {name for word in words for name in _VARIABLE.findall(word)}


def expanded(words: list[str], values: dict[str, str]) -> list[str]:
    """Replaces $(VARIABLES) in words as the kubelet does; unknown ones stay."""
    return [_VARIABLE.sub(lambda found: values.get(found[1], found[0]), word) for word in words]


def quantity(text: Any) -> float:
    """Converts a Kubernetes quantity ("500m", "2Gi", "4") to a number. Raises ValueError."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity")
    return float(match[1]) * _SUFFIXES[match[2]]


_SUFFIXES = {"": 1.0, "m": 1e-3} | {
    letter + binary: float(base**power)
    for power, letter in enumerate(("k", "M", "G", "T", "P"), 1)
    for binary, base in (("", 1000), ("i", 1024))
}
_SUFFIXES["Ki"] = _SUFFIXES["ki"]

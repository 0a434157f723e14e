"""Policy on connections: compares who can reach whom, computed from the NetworkPolicies, with who should."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods, selects

# (from, to) -> port; None: every port. Whatever is not here must not be possible.
ALLOWED: dict[tuple[str, str], int | None] = {
    ("gateway", "redis"): 6379,
    ("learner", "redis"): 6379,
    ("rollout", "gateway"): 50051,
    ("backup", "gateway"): 50051,
    ("learner", "learner"): None,
    ("rollout", "engine"): 30_000,
    ("engine", "engine"): None,
}
# Who may speak to addresses outside the cluster, and on which ports: object stores, a gateway or a Redis elsewhere.
OUTSIDE = {"learner": {443, 6379}, "rollout": {443, 50051}, "gateway": {6379}}
_DNS = {53, 5353}  # 5353: of OpenShift
# Of the node itself, without which there is no identity: the agent of EKS, the metadata server of GKE.
_NODE = {("169.254.170.23/32", 80), ("169.254.169.254/32", 80), ("169.254.169.252/32", 988)}
_AMONG_THEMSELVES = {("learner", "learner"), ("engine", "engine")}  # only where one process spans pods
_PORTS = (6379, 50051, 9101, 9110, 9121, 9150, 29_400, 30_000, 20_000, 22)


@dataclass(frozen=True)
class _Namespace:
    """The labels of pods in another namespace."""

    labels: dict[str, str]


_MONITORING = _Namespace({"kubernetes.io/metadata.name": "monitoring"})
_STRANGERS = _Namespace({"kubernetes.io/metadata.name": "other"})


def network(objects: list[Object]) -> list[str]:
    """Checks default deny and DNS, that fleets reach gateways and nothing else, and that only our own pods reach Redis."""
    policies = list(named(objects, "NetworkPolicy").values())
    found = pods(objects)
    return [
        *_denied(policies),
        *_selections(policies, found),
        *_between(policies, found),
        *_scraped(policies, found),
        *_outside(policies, found),
    ]


def _passes(policies: list[Object], direction: str, pod: Pod, other: Pod | _Namespace, port: int) -> bool:
    selecting = [item["spec"] for item in policies if selects(item["spec"]["podSelector"], pod.labels)]
    bound = [spec.get(direction.lower(), []) for spec in selecting if direction in spec["policyTypes"]]
    side = "to" if direction == "Egress" else "from"
    return not bound or any(_rule(rule, side, other, port) for rules in bound for rule in rules)


def _rule(rule: Object, side: str, other: Pod | _Namespace, port: int) -> bool:
    numbers = rule.get("ports")
    if numbers and not any(
        item.get("protocol", "TCP") == "TCP" and item["port"] <= port <= item.get("endPort", item["port"])
        for item in numbers
    ):
        return False
    return side not in rule or any(_matches(peer, other) for peer in rule[side])


def _matches(peer: Object, other: Pod | _Namespace) -> bool:
    if isinstance(other, _Namespace):
        return "namespaceSelector" in peer and selects(peer["namespaceSelector"], other.labels)
    return "namespaceSelector" not in peer and "podSelector" in peer and selects(peer["podSelector"], other.labels)


def _denied(policies: list[Object]) -> Iterator[str]:
    whole = [item["spec"] for item in policies if item["spec"]["podSelector"] == {}]
    if not any(
        set(spec["policyTypes"]) == {"Ingress", "Egress"} and not spec.keys() & {"ingress", "egress"} for spec in whole
    ):
        yield "NetworkPolicy: nothing denies what no policy allows"
    looked_up = [port for spec in whole for rule in spec.get("egress", []) for port in rule.get("ports", [])]
    found = {(port.get("protocol", "TCP"), port["port"]) for port in looked_up}
    if not {("UDP", 53), ("TCP", 53)} <= found or found - {(kind, port) for kind in ("UDP", "TCP") for port in _DNS}:
        yield f"NetworkPolicy: all pods may look up names (53, UDP and TCP) and nothing else; found {sorted(found)}"


def _selections(policies: list[Object], found: list[Pod]) -> Iterator[str]:
    """Checks that the labels of each policy and rule select a pod: otherwise they are mistyped."""
    for policy in policies:
        name, spec = f"NetworkPolicy/{policy['metadata']['name']}", policy["spec"]
        if not any(selects(spec["podSelector"], pod.labels) for pod in found):
            yield f"{name}: selects no pod"
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if not peer.keys() & {"podSelector", "namespaceSelector", "ipBlock"}:
                    yield f"{name}: a rule about everybody"
                if peer.keys() == {"podSelector"} and not any(
                    selects(peer["podSelector"], pod.labels) for pod in found
                ):
                    yield f"{name}: a rule about pods that do not exist: {peer['podSelector']}"


def _between(policies: list[Object], found: list[Pod]) -> Iterator[str]:
    """Checks egress and ingress apart, so that a hole at one end shows although the other end is closed."""
    for source, target in itertools.product(found, repeat=2):
        pair = (source.component, target.component)
        spans = target.owner["kind"] in ("JobSet", "LeaderWorkerSet")
        allowed = ALLOWED.get(pair, 0) if pair not in _AMONG_THEMSELVES or spans else 0
        for port in _PORTS:
            should = allowed is None or allowed == port
            if _passes(policies, "Egress", source, target, port) != should:
                yield f"NetworkPolicy: {source.where} {'must' if should else 'can'} send to {target.where} on port {port}"
            if _passes(policies, "Ingress", target, source, port) != should:
                yield f"NetworkPolicy: {target.where} {'must' if should else 'can'} let in {source.where} on port {port}"


def _scraped(policies: list[Object], found: list[Pod]) -> Iterator[str]:
    for pod in found:
        for number in pod.ports().values():
            scraped = str(number) == pod.annotations.get("prometheus.io/port")
            if scraped and not _passes(policies, "Ingress", pod, _MONITORING, number):
                yield f"NetworkPolicy: {pod.where} cannot be scraped on port {number}"
        if any(_passes(policies, "Ingress", pod, _STRANGERS, port) for port in _PORTS):
            yield f"NetworkPolicy: {pod.where} can be reached from any namespace"
        if any(_passes(policies, "Egress", pod, _STRANGERS, port) for port in (*_PORTS, 443, 4318, 8000)):
            yield f"NetworkPolicy: {pod.where} can send to any namespace"


def _outside(policies: list[Object], found: list[Pod]) -> Iterator[str]:
    for policy, pod in itertools.product(policies, found):
        if not selects(policy["spec"]["podSelector"], pod.labels):
            continue
        name = f"NetworkPolicy/{policy['metadata']['name']}"
        for rule in policy["spec"].get("egress", []):
            beyond = {
                port
                for block in (peer["ipBlock"]["cidr"] for peer in rule["to"] if "ipBlock" in peer)
                for port in (port["port"] for port in rule.get("ports", [{"port": 0}]))
                if port not in OUTSIDE.get(pod.component, set()) and not _of_the_node(block, port, pod)
            }
            if beyond:
                yield f"{name}: lets {pod.where} out of the cluster on {sorted(beyond)}"
        for rule in policy["spec"].get("ingress", []):
            for peer in rule.get("from", []):
                if peer.get("ipBlock", {}).get("cidr", "").endswith("/0"):
                    yield f"{name}: lets the whole world in to {pod.where}"


def _of_the_node(block: str, port: int, pod: Pod) -> bool:
    """Whether an address is the node's name server, or what hands out the identity of a pod that uses the object store."""
    return (port == 53 and block.endswith("/32")) or (
        pod.component in ("learner", "rollout") and (block, port) in _NODE
    )

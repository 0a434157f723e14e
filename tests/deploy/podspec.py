"""Reads rendered manifests as the kubelet does: pods with their containers' commands, environments, mounts and probes.

Reads the kinds that our overlays use, and refuses what it does not know: a field that was left out would be a test that
says less than it seems to.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.deploy import dockerfile

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LABEL = re.compile(r"metadata\.labels\['([^']+)'\]")
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """A probe. ``kind``: startup, readiness or liveness. ``check``: httpGet, exec or tcpSocket, as in the manifest."""

    kind: str
    check: Manifest
    delay_s: float
    period_s: float
    timeout_s: float
    failures: int

    def __str__(self) -> str:
        if "httpGet" in self.check:
            return f"{self.kind} GET :{self.check['httpGet']['port']}{self.check['httpGet']['path']}"
        return f"{self.kind} {' '.join(self.check['exec']['command'])}"


@dataclass(frozen=True)
class Mount:
    """A volume, or one file of it, at ``path``."""

    path: str
    volume: str
    sub_path: str | None
    read_only: bool


@dataclass(frozen=True)
class Container:
    """A container's command, environment and mounts, with every ``$(VAR)`` and reference filled in."""

    name: str
    command: list[str]
    environment: dict[str, str]
    directory: str
    mounts: list[Mount]
    probes: list[Probe]
    pre_stop: Manifest | None
    user: int
    group: int
    file_group: int | None
    read_only: bool


@dataclass(frozen=True)
class Pod:
    """A pod. ``ends``: whether its containers are to end by themselves (a Job's). ``claims``: volume name -> own claim."""

    name: str
    address: str
    labels: dict[str, str]
    init: list[Container]
    containers: list[Container]
    volumes: dict[str, Manifest]
    claims: dict[str, str]
    file_group: int | None
    grace_s: float
    ends: bool


class Overlay:
    """The objects of a rendered overlay.

    Args:
        objects: what `kubectl kustomize` printed.
    """

    def __init__(self, objects: list[Manifest]) -> None:
        self._objects = objects

    def names(self) -> list[str]:
        """Names of the pods, in the order of the manifests."""
        return [name for _, name, _ in self._replicas()]

    def pods(self, addresses: Mapping[str, str]) -> list[Pod]:
        """Makes the pods. ``addresses``: pod name -> IP. Raises ValueError for fields that this reader does not know."""
        return [self._pod(workload, name, index, addresses[name]) for workload, name, index in self._replicas()]

    def service_names(self, addresses: Mapping[str, str]) -> dict[str, str]:
        """Returns DNS name -> address of the only pod behind it. Raises ValueError unless there is exactly one."""
        names: dict[str, str] = {}
        for service in self._of("Service"):
            selector = service["spec"]["selector"].items()
            behind = [
                (pod, name)
                for pod, name, _ in self._replicas()
                if selector <= _template(pod)["metadata"]["labels"].items()
            ]
            if len(behind) != 1:
                raise ValueError(f"service {service['metadata']['name']}: {len(behind)} pods, and no proxy here")
            workload, pod = behind[0]
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if _number(target, _template(workload)["spec"]["containers"]) != port["port"]:
                    raise ValueError(
                        f"service {service['metadata']['name']}: port {port['port']} is not its target's {target}"
                    )
            short, space = service["metadata"]["name"], service["metadata"].get("namespace", "default")
            for name in (short, f"{short}.{space}", f"{short}.{space}.svc", f"{short}.{space}.svc.cluster.local"):
                names[name] = addresses[pod]
        return names

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """Returns the content of a ConfigMap or a Secret. Raises ValueError when the overlay has none of that name."""
        for found in self._of(kind):
            if found["metadata"]["name"] == name:
                data = found.get("data", {})
                if kind == "Secret":
                    return {key: base64.b64decode(value) for key, value in data.items()}
                return {key: value.encode() for key, value in data.items()}
        raise ValueError(f"no {kind} {name}")

    def _replicas(self) -> Iterator[tuple[Manifest, str, int]]:
        for kind in ("StatefulSet", "Deployment", "Job"):
            for workload in self._of(kind):
                count = workload["spec"].get("replicas", workload["spec"].get("parallelism", 1))
                for index in range(count):
                    yield workload, f"{workload['metadata']['name']}-{index}", index

    def _of(self, kind: str) -> list[Manifest]:
        return [found for found in self._objects if found["kind"] == kind]

    def _pod(self, workload: Manifest, name: str, index: int, address: str) -> Pod:
        template = _template(workload)
        spec = template["spec"]
        labels = {**template["metadata"]["labels"], "apps.kubernetes.io/pod-index": str(index)}
        if "hostNetwork" in spec or "shareProcessNamespace" in spec:
            raise ValueError(f"{name}: this harness has neither hostNetwork nor shareProcessNamespace")
        facts = {
            "metadata.name": name,
            "metadata.namespace": workload["metadata"].get("namespace", "default"),
            "status.podIP": address,
            "spec.nodeName": "node",
            **{f"metadata.labels['{key}']": value for key, value in labels.items()},
        }
        templates = workload["spec"].get("volumeClaimTemplates", [])
        return Pod(
            name=name,
            address=address,
            labels=labels,
            init=[self._container(one, spec, facts) for one in spec.get("initContainers", [])],
            containers=[self._container(one, spec, facts) for one in spec["containers"]],
            volumes={volume["name"]: volume for volume in spec.get("volumes", [])},
            claims={claim["metadata"]["name"]: f"{claim['metadata']['name']}-{name}" for claim in templates},
            file_group=spec.get("securityContext", {}).get("fsGroup"),
            grace_s=spec.get("terminationGracePeriodSeconds", 30),
            ends=workload["kind"] == "Job",
        )

    def _container(self, container: Manifest, spec: Manifest, facts: Mapping[str, str]) -> Container:
        image = _image(container["image"])
        variables = {"PATH": _PATH}
        for name, value in (image.final.pairs("ENV") if image else {}).items():
            variables[name] = value.replace("$PATH", variables["PATH"])
        for variable in container.get("env", []):
            variables[variable["name"]] = self._value(variable, variables, facts)
        security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        entrypoint, arguments = (image.entrypoint, image.arguments) if image else ([], [])
        if "command" in container:
            entrypoint, arguments = container["command"], []
        words = [*entrypoint, *container.get("args", arguments)]
        if not words:
            raise ValueError(f"{container['name']}: nothing to run: {container['image']} is not an image of ours")
        return Container(
            name=container["name"],
            command=[expand(word, variables) for word in words],
            environment=variables,
            directory=container.get("workingDir") or (image.final.last("WORKDIR").rest if image else "/"),
            mounts=[_mount(mount, variables) for mount in container.get("volumeMounts", [])],
            probes=list(_probes(container)),
            pre_stop=container.get("lifecycle", {}).get("preStop"),
            user=security["runAsUser"],
            group=security["runAsGroup"],
            file_group=security.get("fsGroup"),
            read_only=security.get("readOnlyRootFilesystem", False),
        )

    def _value(self, variable: Manifest, variables: Mapping[str, str], facts: Mapping[str, str]) -> str:
        if "valueFrom" not in variable:
            return expand(variable.get("value", ""), variables)
        ((source, reference),) = variable["valueFrom"].items()
        if source == "fieldRef":
            return facts[reference["fieldPath"]]
        kinds = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
        return self.files(kinds[source], reference["name"])[reference["key"]].decode()


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expands ``$(NAME)`` as the kubelet does: unknown names stay as they are, ``$$(NAME)`` becomes ``$(NAME)``."""

    def replace(match: re.Match[str]) -> str:
        return match[0][1:] if match[0].startswith("$$") else variables.get(match[1], match[0])

    return re.sub(r"\$?\$\(([A-Za-z_][\w.-]*)\)", replace, text)


def _template(workload: Manifest) -> Manifest:
    return workload["spec"]["template"]


def _image(reference: str) -> dockerfile.Dockerfile | None:
    """Returns the Dockerfile of one of our images, by its name without registry and tag; None for any other image."""
    name = reference.rpartition("/")[2].partition(":")[0].removeprefix("leeway-")
    return dockerfile.read(name) if name in dockerfile.images() else None


def _mount(mount: Manifest, variables: Mapping[str, str]) -> Mount:
    sub_path = expand(mount["subPathExpr"], variables) if "subPathExpr" in mount else mount.get("subPath")
    return Mount(mount["mountPath"], mount["name"], sub_path, mount.get("readOnly", False))


def _probes(container: Manifest) -> Iterator[Probe]:
    for kind in ("startup", "readiness", "liveness"):
        raw = container.get(f"{kind}Probe")
        if raw is None:
            continue
        check = {name: raw[name] for name in ("httpGet", "exec") if name in raw}
        if len(check) != 1:
            raise ValueError(f"{container['name']}: a {kind} probe of a kind that is not known here: {raw}")
        if "httpGet" in check:
            check = {"httpGet": {**check["httpGet"], "port": _number(check["httpGet"]["port"], [container])}}
        times = [raw.get(name, default) for name, default in _DEFAULTS.items()]
        yield Probe(kind, check, *times)


_DEFAULTS = {"initialDelaySeconds": 0, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3}


def _number(port: int | str, containers: list[Manifest]) -> int:
    """Returns a port's number, given its number or its name. Raises ValueError when no container has it."""
    for known in (known for container in containers for known in container.get("ports", [])):
        if port in (known["containerPort"], known.get("name")):
            return known["containerPort"]
    raise ValueError(f"port {port} is none of the container's ports")

"""Policy on references: what an object names is in the overlay, comes from cert-manager, or is made by an operator."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.deploy.manifests import KUBERNETES, Object
from tests.deploy.workloads import INJECTED, Pod, named, pods, variables

_ISSUED = {"tls.crt", "tls.key", "ca.crt"}
_ROW = re.compile(r"^\| `(?P<name>[a-z0-9-]+)` \| (?P<keys>[^|]+) \|", re.MULTILINE)
# Made by hand only where the overlay has no such issuer: a fleet elsewhere, a Redis elsewhere.
_ISSUED_BY = {"leeway-rollout-tls": "leeway-fleets", "leeway-queue-tls": "leeway-queue"}
Keys = dict[str, set[str] | None]  # name -> keys; None: any


def documented() -> Keys:
    """Reads the Secrets that an operator makes from the table of deploy/kubernetes/README.md."""
    rows = _ROW.finditer((KUBERNETES / "README.md").read_text())
    keys = {row["name"]: set(re.findall(r"`([^`]+)`", row["keys"])) for row in rows}
    return {name: found or None for name, found in keys.items()}


def references(objects: list[Object]) -> list[str]:
    """Checks references to ConfigMaps, Secrets, their keys, claims, priorities, volumes, variables and issuers."""
    maps = {name: _keys(item) for name, item in named(objects, "ConfigMap").items()}
    wrong = [
        f"{pod.where}: {problem}" for pod in pods(objects) for problem in _pod(pod, objects, maps, secrets(objects))
    ]
    return wrong + list(_certificates(objects))


def secrets(objects: list[Object]) -> Keys:
    """Returns every Secret with its keys: those that are documented, issued or rendered."""
    issuers = named(objects, "Issuer")
    found = {name: keys for name, keys in documented().items() if _ISSUED_BY.get(name) not in issuers}
    for certificate in named(objects, "Certificate").values():
        found[certificate["spec"]["secretName"]] = _ISSUED
    return found | {name: _keys(item) for name, item in named(objects, "Secret").items()}


def _keys(item: Object) -> set[str] | None:
    return {key for part in ("data", "stringData", "binaryData") for key in item.get(part) or {}}


def _pod(pod: Pod, objects: list[Object], maps: Keys, known: Keys) -> Iterator[str]:
    claims = set(named(objects, "PersistentVolumeClaim"))
    if pod.spec.get("priorityClassName") not in named(objects, "PriorityClass"):
        yield f"its priority class {pod.spec.get('priorityClassName')} does not exist"
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for name, volume in volumes.items():
        if "configMap" in volume:
            yield from _missing("ConfigMap", volume["configMap"]["name"], _items(volume["configMap"]), maps)
        if "secret" in volume:
            yield from _missing("Secret", volume["secret"]["secretName"], _items(volume["secret"]), known)
        if (claim := volume.get("persistentVolumeClaim", {}).get("claimName")) and claim not in claims:
            yield f"the claim {claim} of volume {name} does not exist"
    mounted = [mount for item in pod.everything() for mount in item.get("volumeMounts", [])]
    for name in sorted({mount["name"] for mount in mounted} - volumes.keys() - pod.claims):
        yield f"mounts {name}, which is no volume of the pod"
    for name in sorted((volumes.keys() | pod.claims) - {mount["name"] for mount in mounted}):
        yield f"volume {name} is mounted nowhere"
    for mount in mounted:
        source = volumes.get(mount["name"], {}).get("configMap")
        if source and "subPath" in mount:
            yield from _missing("ConfigMap", source["name"], {mount["subPath"]}, maps)
    for item in pod.everything():
        yield from _environment(pod, item, maps, known)


def _environment(pod: Pod, container: Object, maps: Keys, known: Keys) -> Iterator[str]:
    declared = set(INJECTED.get(pod.owner["kind"], set()))
    for variable in container.get("env", []):
        declared.add(variable["name"])
        source = variable.get("valueFrom", {})
        for kind, place, table in (("ConfigMap", "configMapKeyRef", maps), ("Secret", "secretKeyRef", known)):
            if place in source:
                yield from _missing(kind, source[place]["name"], {source[place]["key"]}, table)
    for source in container.get("envFrom", []):
        for kind, place, table in (("ConfigMap", "configMapRef", maps), ("Secret", "secretRef", known)):
            if place in source:
                yield from _missing(kind, source[place]["name"], set(), table)
    for name in sorted(variables(container) - declared):
        yield f"{container['name']} uses $({name}), which it does not have"


def _items(source: Object) -> set[str]:
    return {item["key"] for item in source.get("items", [])}


def _missing(kind: str, name: str, keys: set[str], known: Keys) -> Iterator[str]:
    if name not in known:
        yield f"{kind} {name} does not exist"
    elif (present := known[name]) is not None and (absent := keys - present):
        yield f"{kind} {name} has no {', '.join(sorted(absent))}"


def _certificates(objects: list[Object]) -> Iterator[str]:
    issuers = named(objects, "Issuer")
    made = {item["spec"]["secretName"] for item in named(objects, "Certificate").values()}
    for name, certificate in named(objects, "Certificate").items():
        if certificate["spec"]["issuerRef"]["name"] not in issuers:
            yield f"Certificate/{name}: its issuer {certificate['spec']['issuerRef']['name']} does not exist"
    for name, issuer in issuers.items():
        if (secret := issuer["spec"].get("ca", {}).get("secretName")) and secret not in made:
            yield f"Issuer/{name}: nothing makes its Secret {secret}"

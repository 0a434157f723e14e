"""Policy on settings: every process can read its own, and has the ports, files and volumes that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from learner.config import GatewayConfig, LearnerConfig
from rollout.config import WorkerConfig
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import Process, of_kind, processes
from tests.deploy.policies.references import Keys, secrets
from tests.deploy.workloads import pods

_OF = {"gateway": GatewayConfig, "learner": LearnerConfig, "rollout": WorkerConfig}
_WRITTEN = {"checkpoint.dir", "publish.dir", "metrics_dir", "state_dir", "cache_dir", "log_dir"}


def settings(objects: list[Object]) -> list[str]:
    """Checks settings by their own classes, addresses against the pod's ports, and paths against its volumes."""
    found, wrong = processes(objects)
    for component, kind in _OF.items():
        for pod in pods(objects):
            expected = pod.component == component
            if expected and not any(process.pod.where == pod.where for process, _ in of_kind(found, kind)):
                wrong.append(f"{pod.where}: no container runs a {component} with settings of its own")
    known = secrets(objects)
    return wrong + [
        f"{process.where}: {problem}"
        for process in found
        for problem in [*_addresses(process), *_paths(process, known), *_encryption(process)]
    ]


def _addresses(process: Process) -> Iterator[str]:
    own = {port["name"]: port["containerPort"] for port in process.container.get("ports", [])}
    expected = {"status": process.config.status.listen}
    if isinstance(process.config, GatewayConfig):
        expected["grpc"] = process.config.listen
    for name, listen in expected.items():
        if listen != f"0.0.0.0:{own.get(name)}":
            yield f"listens on {listen}, its port {name} is {own.get(name)}"


def _paths(process: Process, known: Keys) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in process.pod.spec.get("volumes", [])}
    for key, path in _all(process.config):
        mounts = [item for item in process.container["volumeMounts"] if path.is_relative_to(item["mountPath"])]
        if not mounts:
            yield f"{key} = {path} is in no volume"
            continue
        mount = max(mounts, key=lambda item: len(item["mountPath"]))
        if key in _WRITTEN and mount.get("readOnly"):
            yield f"{key} = {path} is in a volume that it may only read"
        source = volumes.get(mount["name"], {}).get("secret")
        if source:
            items = {item["path"] for item in source.get("items", [])} or known.get(source["secretName"])
            if items is not None and str(path.relative_to(mount["mountPath"])) not in items:
                yield f"{key} = {path}: Secret {source['secretName']} has no such file"


def _all(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Path]]:
    for name, value in config:
        if isinstance(value, Path):
            yield prefix + name, value
        elif isinstance(value, BaseModel):
            yield from _all(value, f"{prefix}{name}.")


def _encryption(process: Process) -> Iterator[str]:
    config = process.config
    if isinstance(config, WorkerConfig):
        return
    trusted = config.queue.tls.ca is not None
    if config.queue.url.startswith("rediss:") != trusted:
        yield f"queue.url = {config.queue.url} and queue.tls do not agree about encryption"
    if "@" not in config.queue.url or config.queue.password_file is None:
        yield "Redis would be used without a user of its own and its password file"
    if isinstance(config, GatewayConfig) and trusted and (config.tls is None or config.tls.client_ca is None):
        yield "Redis is encrypted and fleets are not asked for certificates: set tls with client_ca"

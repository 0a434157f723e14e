"""Policy on code of users: its container has nothing that is the worker's but the socket between them and the task's data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rollout.config import WorkerConfig
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import of_kind, processes
from tests.deploy.workloads import Pod, named, pods

_NAME = "user-code"
_SKIPPED = {
    "eks.amazonaws.com/role-arn": "eks.amazonaws.com/skip-containers",
    "azure.workload.identity/client-id": "azure.workload.identity/skip-containers",
}
_MAY = ("emptyDir",)  # volumes that it may have whole
_DATA = {"subPath": "data", "readOnly": True}


def user_code(objects: list[Object]) -> list[str]:
    """Checks that no Secret, key, token or writable volume of a run reaches the container, and that the worker uses it."""
    sockets = {
        process.pod.where: config.environments.socket
        for process, config in of_kind(processes(objects)[0], WorkerConfig)
    }
    wrong = []
    for pod in pods(objects):
        beside = [item for item in pod.containers() if item["name"] == _NAME]
        socket = sockets.get(pod.where)
        if socket is not None and not beside:
            wrong.append(f"{pod.where}: environments.socket = {socket}, and there is no container {_NAME}")
        for item in beside:
            found = [*_volumes(pod, item), *_environment(item), *_identity(pod, objects), *_socket(pod, item, socket)]
            wrong += [f"{pod.where} {_NAME}: {problem}" for problem in found]
    return wrong


def _volumes(pod: Pod, item: Object) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    worker = {mount["name"]: mount["mountPath"] for mount in pod.containers()[0]["volumeMounts"]}
    for mount in item["volumeMounts"]:
        volume = volumes.get(mount["name"], {})
        if "persistentVolumeClaim" in volume and {key: mount.get(key) for key in _DATA} == _DATA:
            continue
        if not any(kind in volume for kind in _MAY):
            yield f"has the volume {mount['name']}: only data of the task, read-only, and directories of its own may be there"
        elif worker.get(mount["name"], "/run/leeway") == "/tmp":
            yield f"shares {mount['name']} with the worker, which keeps files of its own there"


def _environment(item: Object) -> Iterator[str]:
    if "envFrom" in item:
        yield "has an environment from elsewhere (envFrom): name each variable, and none that is a key"
    for variable in item.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield f"has the key {variable['name']}"


def _identity(pod: Pod, objects: list[Object]) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "is given a token of the cluster's API"
    account = named(objects, "ServiceAccount").get(pod.spec.get("serviceAccountName", ""), {})
    for identity, skipped in _SKIPPED.items():
        given = identity in account.get("metadata", {}).get("annotations", {})
        if given and pod.annotations.get(skipped) != _NAME:
            yield f"is given the token of {identity}: the annotation {skipped} does not name it"


def _socket(pod: Pod, item: Object, socket: Path | None) -> Iterator[str]:
    args = item.get("args", [])
    if "--socket" not in args or socket is None or args[args.index("--socket") + 1] != str(socket):
        yield f"its --socket is not the worker's environments.socket = {socket}"
        return
    mounts = [
        {mount["name"] for mount in one["volumeMounts"] if socket.is_relative_to(mount["mountPath"])}
        for one in (pod.containers()[0], item)
    ]
    if not mounts[0] & mounts[1]:
        yield f"{socket} is in no volume that it shares with the worker"

"""Policy on permissions: a pod may do nothing on its node and in its cluster that it does not need."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods

_USER = 10001
_VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "downwardAPI", "ephemeral"}
_LOCKING = {"drop": ["ALL"], "add": ["IPC_LOCK"]}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def confined(objects: list[Object]) -> list[str]:
    """Checks that pods are restricted: not root, no access to the host, a read-only root file system.

    A container that has been given RDMA devices may be root with the capability IPC_LOCK, in a namespace that allows it.
    """
    users = (None, None, None) if _is_openshift(objects) else (_USER,) * 3
    wrong = [f"{pod.where}: {problem}" for pod in pods(objects) for problem in _pod(pod, users)]
    for pod in pods(objects):
        wrong += [f"{pod.where} {item['name']}: {problem}" for item in pod.everything() for problem in _container(item)]
    locking = any(_locks(item) for pod in pods(objects) for item in pod.containers())
    expected = "privileged" if locking else "restricted"
    for name, namespace in named(objects, "Namespace").items():
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != expected:
            wrong.append(f"Namespace/{name}: does not enforce the {expected} pod security standard")
    return wrong


def _locks(container: Object) -> bool:
    """Whether it may lock memory for RDMA devices that it has."""
    devices = any(name.startswith("rdma/") for name in container["resources"]["limits"])
    return devices and container.get("securityContext", {}).get("capabilities") == _LOCKING


def _is_openshift(objects: list[Object]) -> bool:
    """Whether names are looked up at OpenShift's DNS."""
    return "openshift-dns" in str(list(named(objects, "NetworkPolicy").values()))


def _pod(pod: Pod, users: tuple[int | None, ...]) -> Iterator[str]:
    context = pod.spec.get("securityContext", {})
    if not context.get("runAsNonRoot"):
        yield "may run as root"
    if (context.get("runAsUser"), context.get("runAsGroup"), context.get("fsGroup")) != users:
        yield f"user, group and fsGroup are not {users[0] or 'left to the namespace'}"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    for key in _HOST:
        if pod.spec.get(key):
            yield f"uses {key}"
    for volume in pod.spec.get("volumes", []):
        if strange := volume.keys() - _VOLUMES - {"name"}:
            yield f"volume {volume['name']} is a {', '.join(sorted(strange))}"


def _container(container: Object) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "its root file system can be written to"
    if context.get("capabilities", {}) != {"drop": ["ALL"]} and not _locks(container):
        yield "keeps capabilities"
    user = 0 if _locks(container) else _USER  # another user than root would lose the capability when its process starts
    if context.get("privileged") or context.get("runAsUser", _USER) != user:
        yield f"is privileged, or not user {user}"


def accounts(objects: list[Object]) -> list[str]:
    """Checks that every kind of pod has its own service account, without a token and without a role."""
    known, wrong = named(objects, "ServiceAccount"), []
    for pod in pods(objects):
        account = known.get(pod.spec.get("serviceAccountName", "default"))
        if account is None:
            wrong.append(f"{pod.where}: its service account {pod.spec.get('serviceAccountName')} does not exist")
        elif account.get("automountServiceAccountToken") is not False:
            wrong.append(f"{pod.where}: its service account hands out a token")
        if pod.spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{pod.where}: is given a token of the cluster's API")
        if pod.spec.get("enableServiceLinks") is not False:
            wrong.append(f"{pod.where}: services leak into its environment (enableServiceLinks)")
    for item in objects:
        if item["kind"] in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
            wrong.append(f"{item['kind']}/{item['metadata']['name']}: no process of ours talks to the cluster's API")
    return wrong

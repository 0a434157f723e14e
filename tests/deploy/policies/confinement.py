"""Policy on permissions: a pod may do nothing on its node and in its cluster that it does not need."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods

_USER = 10001
_VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "downwardAPI", "ephemeral"}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def confined(objects: list[Object]) -> list[str]:
    """Checks that pods are restricted: not root, no access to the host, a read-only root file system."""
    wrong = [f"{pod.where}: {problem}" for pod in pods(objects) for problem in _pod(pod)]
    for pod in pods(objects):
        wrong += [f"{pod.where} {item['name']}: {problem}" for item in pod.everything() for problem in _container(item)]
    for name, namespace in named(objects, "Namespace").items():
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            wrong.append(f"Namespace/{name}: does not enforce the restricted pod security standard")
    return wrong


def _pod(pod: Pod) -> Iterator[str]:
    context = pod.spec.get("securityContext", {})
    if not context.get("runAsNonRoot"):
        yield "may run as root"
    if (context.get("runAsUser"), context.get("runAsGroup"), context.get("fsGroup")) != (_USER,) * 3:
        yield f"user, group and fsGroup are not {_USER}"
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
    if context.get("capabilities", {}) != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("privileged") or context.get("runAsUser", _USER) != _USER:
        yield "is privileged, or another user than its pod"


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

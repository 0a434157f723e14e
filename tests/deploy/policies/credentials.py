"""Policy on credentials: a pod has those that it needs, and keys only where it has no identity of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, named, pods

# Component -> the Secrets that its pods may have. Certificates of redis_exporter and Redis are in one Secret.
_ALLOWED = {
    "gateway": {"leeway-identities", "leeway-redis-password", "leeway-gateway-tls", "leeway-queue-tls"},
    "learner": {"leeway-redis-password", "leeway-queue-tls", "leeway-object-storage-write"},
    "rollout": {"leeway-token", "leeway-engine-key", "leeway-rollout-tls", "leeway-object-storage-read"},
    "engine": {"leeway-engine-key"},
    "backup": {"leeway-operator", "leeway-backup-tls"},
    "redis": {"leeway-redis-password", "leeway-redis-tls"},
}
_ANNOTATIONS = ("eks.amazonaws.com/role-arn", "iam.gke.io/gcp-service-account", "azure.workload.identity/client-id")
_HASH = re.compile(r"-[a-z0-9]{10}$")  # of a Secret that kustomize has made
_AZURE = "azure.workload.identity/use"
_AGENTS = {"iam.gke.io/gcp-service-account": "169.254.169.254/32", "eks.amazonaws.com/role-arn": "169.254.170.23/32"}


def credentials(objects: list[Object]) -> list[str]:
    """Checks which Secrets each pod has, and that a pod with a cloud's identity has no keys beside it."""
    accounts = named(objects, "ServiceAccount")
    roles = [role for item in accounts.values() for role in item["metadata"].get("annotations", {}).values()]
    shared = [f"{role} is the identity of learner and fleets: fleets could write versions" for role in _twice(roles)]
    return shared + [
        f"{pod.where}: {problem}"
        for pod in pods(objects)
        for problem in [
            *_secrets(pod),
            *_identity(pod, accounts.get(pod.spec.get("serviceAccountName", ""), {}), objects),
        ]
    ]


def _twice(roles: list[str]) -> list[str]:
    return sorted({role for role in roles if roles.count(role) > 1})


def _secrets(pod: Pod) -> Iterator[str]:
    allowed = _ALLOWED.get(pod.component, set())
    for name in sorted(name for name in _named(pod.template) if not {name, _HASH.sub("", name)} & allowed):
        yield f"has the Secret {name}, which a {pod.component} does not need"


def _named(value: object) -> set[str]:
    """Names of the Secrets in any part of a pod."""
    if isinstance(value, dict):
        own = {str(value[key]["name"]) for key in ("secretRef", "secretKeyRef") if key in value}
        own |= {str(value["secretName"])} if "secretName" in value else set()
        return own.union(*map(_named, value.values()))
    return set().union(*map(_named, value)) if isinstance(value, list) else set()


def _identity(pod: Pod, account: Object, objects: list[Object]) -> Iterator[str]:
    annotations = account.get("metadata", {}).get("annotations", {})
    for name in (name for name in _ANNOTATIONS if name in annotations):
        if keys := sorted(secret for secret in _named(pod.template) if "object-storage" in secret):
            yield f"has the identity {name} and the keys of {', '.join(keys)}, which it would use instead"
        if name in _AGENTS and _AGENTS[name] not in str(list(named(objects, "NetworkPolicy").values())):
            yield f"cannot reach {_AGENTS[name]}, which hands out its identity {name}"
        if name.startswith("azure") and pod.labels.get(_AZURE) != "true":
            yield f"has no label {_AZURE}: its identity is not given to it"

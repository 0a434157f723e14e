"""Faults in permissions, images, resources and probes of pods."""

from __future__ import annotations

from tests.deploy.faults import GONE, Fault
from tests.deploy.planted.targets import (
    BACKUP,
    BACKUP_POD,
    GATEWAY,
    GROUPS,
    JOB,
    JOBSET,
    LEADER,
    MAIN,
    NODE,
    POD,
    REDIS,
    USER,
    WORKER,
)

_ENFORCED = "pod-security~kubernetes~io/enforce"

_AZURE = "azure~workload~identity/use"
_WRITE = "leeway-object-storage-write"
_REDIS = {"name": "redis", "secret": {"secretName": "leeway-redis-password"}}
_KEYS = [{"secretRef": {"name": "leeway-object-storage-read"}}]
_NOTES = "spec.template.metadata.annotations"
_VARIABLE = {"name": "JUDGE_KEY", "valueFrom": {"secretKeyRef": {"name": "judge", "key": "key"}}}
_ROLE = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/leeway-learner"}

FAULTS = [
    # a pod may do what it need not
    Fault("confined", "dev", GATEWAY, f"{POD}.securityContext.runAsNonRoot", False, "root"),
    Fault("confined", "dev", GATEWAY, f"{POD}.securityContext.runAsUser", 0, "10001"),
    Fault("confined", "dev", REDIS, f"{POD}.securityContext.seccompProfile", GONE, "seccomp"),
    Fault("confined", "dev", WORKER, f"{POD}.hostNetwork", True, "hostNetwork"),
    Fault("confined", "dev", WORKER, f"{POD}.volumes.+", {"name": "x", "hostPath": {"path": "/"}}, "hostPath"),
    Fault("confined", "dev", JOB, f"{MAIN}.securityContext.readOnlyRootFilesystem", False, "written"),
    Fault("confined", "dev", JOB, f"{POD}.initContainers.0.securityContext.capabilities", {}, "capabilities"),
    Fault("confined", "multi-node", JOBSET, f"{NODE}.containers.0.securityContext", {}, "privileges"),
    Fault("confined", "engine-groups", GROUPS, f"{LEADER}.containers.0.securityContext.privileged", True, "privileged"),
    Fault("confined", "engine-groups", GROUPS, f"{LEADER}.containers.0.securityContext.runAsUser", 10001, "not user 0"),
    Fault("confined", "engine-groups", GROUPS, f"{LEADER}.containers.0.resources.limits.rdma/ib", GONE, "capabilities"),
    Fault("confined", "engine-groups", "Namespace/leeway", f"metadata.labels.{_ENFORCED}", "restricted", "privileged"),
    Fault("confined", "multi-node", "Namespace/leeway", f"metadata.labels.{_ENFORCED}", "privileged", "restricted"),
    Fault("confined", "dev", "Namespace/leeway", "metadata.labels", {}, "restricted"),
    Fault("accounts", "dev", "ServiceAccount/leeway-gateway", "", GONE, "does not exist"),
    Fault("accounts", "dev", REDIS, f"{POD}.serviceAccountName", "default", "does not exist"),
    Fault("accounts", "dev", GATEWAY, f"{POD}.automountServiceAccountToken", True, "token"),
    Fault("accounts", "dev", "ServiceAccount/leeway-rollout", "automountServiceAccountToken", GONE, "token"),
    Fault("accounts", "dev", "ServiceAccount/leeway-learner", "kind", "RoleBinding", "API"),
    Fault("accounts", "multi-node", JOBSET, f"{NODE}.enableServiceLinks", GONE, "Links"),
    Fault("confined", "openshift", GATEWAY, f"{POD}.securityContext.runAsUser", 10001, "left to the namespace"),
    # credentials
    Fault("credentials", "multi-node", WORKER, f"{MAIN}.envFrom.0.secretRef.name", _WRITE, f"has the Secret {_WRITE}"),
    Fault("credentials", "multi-node", WORKER, f"{POD}.volumes.+", _REDIS, "leeway-redis-password"),
    Fault("credentials", "external-redis", WORKER, f"{MAIN}.envFrom", _KEYS, "and the keys of"),
    Fault("credentials", "external-redis", "NetworkPolicy/leeway-identity", "", GONE, "cannot reach 169.254.170.23/32"),
    Fault("credentials", "engine-groups", "NetworkPolicy/leeway-identity", "", GONE, "cannot reach 169.254.169.254/32"),
    Fault("credentials", "openshift", WORKER, f"spec.template.metadata.labels.{_AZURE}", GONE, "not given to it"),
    Fault(
        "credentials",
        "external-redis",
        "ServiceAccount/leeway-rollout",
        "metadata.annotations",
        _ROLE,
        "of learner and fleets",
    ),
    # code of users
    Fault("user_code", "openshift", WORKER, f"{USER}.volumeMounts.+", {"name": "token", "mountPath": "/x"}, "token"),
    Fault("user_code", "openshift", WORKER, f"{USER}.volumeMounts.+", {"name": "state", "mountPath": "/x"}, "state"),
    Fault("user_code", "openshift", WORKER, f"{USER}.volumeMounts.2.readOnly", GONE, "leeway"),
    Fault("user_code", "openshift", WORKER, f"{USER}.volumeMounts.+", {"name": "tmp", "mountPath": "/x"}, "shares tmp"),
    Fault("user_code", "openshift", WORKER, f"{USER}.envFrom", _KEYS, "envFrom"),
    Fault("user_code", "openshift", WORKER, f"{USER}.env", [_VARIABLE], "has the key JUDGE_KEY"),
    Fault("user_code", "openshift", WORKER, f"{POD}.automountServiceAccountToken", GONE, "cluster's API"),
    Fault(
        "user_code", "openshift", WORKER, f"{_NOTES}.azure~workload~identity/skip-containers", GONE, "skip-containers"
    ),
    Fault(
        "user_code", "external-redis", WORKER, f"{_NOTES}.eks~amazonaws~com/skip-containers", "worker", "token of eks"
    ),
    Fault("user_code", "openshift", WORKER, f"{USER}.args.1", "/run/leeway/other.socket", "environments.socket"),
    Fault("user_code", "openshift", WORKER, f"{USER}.volumeMounts.0.name", "user-code-tmp", "no volume that it shares"),
    Fault("user_code", "openshift", WORKER, USER, GONE, "no container user-code"),
    Fault("credentials", "external-redis", BACKUP, f"{BACKUP_POD}.volumes.+", _REDIS, "leeway-redis-password"),
    # what it is made from, what it takes
    Fault("images", "dev", GATEWAY, f"{MAIN}.image", "leeway-gateway:latest", "no version"),
    Fault("images", "dev", REDIS, f"{MAIN}.image", "redis", "no version"),
    Fault("images", "dev", JOB, f"{POD}.initContainers.0.image", "busybox:stable", "no version"),
    Fault("images", "engine-groups", GROUPS, f"{LEADER}.containers.0.image", "x@sha256:12", "no version"),
    Fault("resources", "dev", GATEWAY, f"{MAIN}.resources.limits.memory", GONE, "memory"),
    Fault("resources", "dev", WORKER, f"{POD}.initContainers.0.resources", {}, "cpu"),
    Fault("resources", "dev", REDIS, f"{MAIN}.resources.requests.memory", "2Gi", "above"),
    Fault("resources", "single-node", JOB, f"{MAIN}.resources.limits.nvidia~com/gpu", "8", "GPUs"),
    Fault("resources", "multi-node", JOBSET, f"{NODE}.volumes.+", {"name": "x", "emptyDir": {}}, "sizeLimit"),
    Fault("resources", "engine-groups", GROUPS, f"{LEADER}.tolerations", GONE, "taint"),
    # how Kubernetes knows
    Fault("probes", "dev", GATEWAY, f"{MAIN}.readinessProbe", GONE, "no readinessProbe"),
    Fault("probes", "dev", JOB, f"{MAIN}.livenessProbe.httpGet.path", "/readyz", "/healthz"),
    Fault("probes", "dev", GATEWAY, f"{MAIN}.readinessProbe.httpGet.port", "health", "no port health"),
    Fault("probes", "dev", REDIS, f"{MAIN}.livenessProbe", {"tcpSocket": {"port": 6379}}, "asks nothing"),
    Fault("probes", "dev", GATEWAY, f"{MAIN}.livenessProbe.failureThreshold", 1, "gives up"),
    Fault("probes", "dev", WORKER, f"{MAIN}.readinessProbe.failureThreshold", 1, "refit"),
    Fault("probes", "engine-groups", GROUPS, f"{LEADER}.containers.0.startupProbe", GONE, "no startupProbe"),
    Fault("probes", "dev", GATEWAY, f"{MAIN}.startupProbe.timeoutSeconds", GONE, "timeout"),
]

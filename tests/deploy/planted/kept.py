"""Faults in what stays when a run is deleted, and in what all runs of a cluster share."""

from __future__ import annotations

from tests.deploy.faults import GONE, Fault
from tests.deploy.planted.targets import GATEWAY, JOB, JOBSET, MAIN, NODE, POD, REDIS

_SYNC = "metadata.annotations.argocd~argoproj~io/sync-options"

FAULTS = [
    # of what is deleted with a run
    Fault(
        "deletable", "dev", "ServiceAccount/leeway-learner", "kind", "Namespace", "Namespace/leeway-learner: would be"
    ),
    Fault("deletable", "multi-node", "Service/leeway-gateway", "kind", "PersistentVolumeClaim", "deleted with the run"),
    Fault("deletable", "single-node", "Service/leeway-gateway", "kind", "PriorityClass", "deleted with the run"),
    Fault("deletable", "fleet-remote", "Service/leeway-rollout", "kind", "ClusterQueue", "deleted with the run"),
    # of what stays
    Fault("kept", "dev", "Namespace/leeway", _SYNC, GONE, "Namespace/leeway: Argo CD"),
    Fault("kept", "fleet-remote", "PersistentVolumeClaim/leeway-state", _SYNC, "Prune=false", "leeway-state: Argo CD"),
    Fault("kept", "dev", "PriorityClass/leeway-queue", "metadata.annotations", {}, "leeway-queue: Argo CD"),
    Fault("kept", "multi-node", "ClusterQueue/leeway", "metadata.annotations", {}, "ClusterQueue/leeway: Argo CD"),
    Fault("kept", "dev", REDIS, "spec.persistentVolumeClaimRetentionPolicy", GONE, "its volumes may go with it"),
    Fault(
        *("kept", "dev", REDIS, "spec.persistentVolumeClaimRetentionPolicy.whenDeleted"),
        *("Delete", "its volumes may go with it"),
    ),
    # of what Kueue needs to let the learner go first
    Fault("queued", "multi-node", "ClusterQueue/leeway", "spec.preemption", GONE, "the learner waits for engines"),
    Fault("queued", "multi-node", "ClusterQueue/leeway", "spec.preemption.reclaimWithinCohort", "Never", "lent"),
    Fault("queued", "multi-node", "ResourceFlavor/leeway-gpu", "spec.nodeLabels", {}, "labels"),
    Fault("queued", "multi-node", "ResourceFlavor/leeway-gpu", "spec.topologyName", "racks", "no Topology racks"),
    Fault("queued", "multi-node", "ResourceFlavor/leeway-gpu", "spec.nodeTaints.0.key", "gpu", "tolerates"),
    Fault("queued", "multi-node", "LocalQueue/leeway", "spec.clusterQueue", "other", "no ClusterQueue other"),
    Fault("queued", "multi-node", "PriorityClass/leeway-learner", "value", 10000, "not above"),
    Fault(
        *("queued", "multi-node", "ClusterQueue/leeway", "spec.resourceGroups.0.flavors.0.resources.3.nominalQuota"),
        *("40", "nvidia.com/gpu"),
    ),
    Fault(
        *("queued", "multi-node", "ClusterQueue/leeway", "spec.resourceGroups.0.coveredResources"),
        *(["cpu", "memory", "nvidia.com/gpu"], "does not cover ephemeral-storage"),
    ),
]
_INNER = "spec.replicatedJobs.0.template.spec.podFailurePolicy.rules"
# In what Kubernetes makes of the way in which a process ends.
ENDS = [
    Fault("lifetimes", "dev", JOB, f"{POD}.restartPolicy", "OnFailure", "whatever its exit status"),
    Fault("lifetimes", "dev", JOB, "spec.podFailurePolicy", GONE, "exit status 2"),
    Fault("lifetimes", "dev", JOB, "spec.podFailurePolicy.rules.1.onExitCodes.values", [1, 2, 3], "ordinary failure"),
    Fault("lifetimes", "dev", JOB, "spec.podFailurePolicy.rules.2", GONE, "exit status 4 of the learner: a failure"),
    Fault("lifetimes", "multi-node", JOBSET, f"{_INNER}.1.action", "Ignore", "exit status 2"),
    Fault("lifetimes", "multi-node", JOBSET, "spec.failurePolicy.rules", GONE, "FailJobSet"),
    Fault("lifetimes", "multi-node", JOBSET, f"{NODE}.containers.0.command.2", "torch.distributed.run", "learner.node"),
    Fault("lifetimes", "dev", GATEWAY, f"{MAIN}.terminationMessagePolicy", GONE, "FallbackToLogsOnError"),
    Fault("lifetimes", "dev", GATEWAY, f"{MAIN}.terminationMessagePath", "/tmp/x", "LEEWAY_TERMINATION_LOG to /tmp/x"),
]
_GATEWAY, _LEARNER, _WORKER = ("ConfigMap/leeway-gateway", "ConfigMap/leeway-learner", "ConfigMap/leeway-worker")
_SETTINGS, _TRAINING, _ASKED = ("data.gateway~toml", "data.learner~toml", "data.worker~toml")
# In numbers of different files that must agree.
NUMBERS = [
    Fault("timing", "multi-node", _LEARNER, _TRAINING, ("every = 10", "every = 20"), "8549 s between checkpoints"),
    Fault("timing", "multi-node", _LEARNER, _TRAINING, ("= 128", "= 1024"), "a step takes"),
    Fault("timing", "multi-node", _LEARNER, _TRAINING, ("stop_grace_s = 860", "stop_grace_s = 500"), "do not fit"),
    Fault("timing", "multi-node", _GATEWAY, _SETTINGS, ("4500", "3600"), "not renewed after 3600 s"),
    Fault("timing", "multi-node", _GATEWAY, _SETTINGS, ("longest_lease_s", "lease_s = 600\nlongest_lease_s"), "silent"),
    Fault("timing", "single-node", _WORKER, _ASKED, ("max_new_tokens = 4096", "max_new_tokens = 8192"), "4156 s"),
    Fault(
        *("timing", "single-node", "PersistentVolumeClaim/leeway", "spec.resources.requests.storage", "500Gi"),
        "has 537 GB, checkpoints and versions take 691 GB",
    ),
]

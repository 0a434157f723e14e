"""Faults that Kubernetes itself, or an operator, would refuse."""

from __future__ import annotations

from tests.deploy.faults import GONE, Fault
from tests.deploy.planted.targets import GATEWAY, GROUPS, JOB, JOBSET, LEADER, MAIN, NODE

FAULTS = [
    Fault("", "dev", GATEWAY, f"{MAIN}.imagePullPolice", "Always", "imagePullPolice"),
    Fault("", "dev", GATEWAY, "spec.replicas", "two", "two"),
    Fault("", "dev", JOB, "spec.template", GONE, "template"),
    Fault("", "multi-node", "PodDisruptionBudget/leeway-gateway", "apiVersion", "policy/v1beta1", "Couldn't find"),
    Fault("", "multi-node", JOBSET, "spec.failurePolicy.maxRestart", 3, "maxRestart"),
    Fault("", "multi-node", JOBSET, "spec.failurePolicy.restartStrategy", "Never", "Never"),
    Fault("", "multi-node", JOBSET, "apiVersion", "jobset.x-k8s.io/v1", "v1alpha2"),
    Fault("", "multi-node", JOBSET, f"{NODE}.containers.0.volumeMount", [], "volumeMount"),
    Fault("", "multi-node", JOBSET, "spec.replicatedJobs.0.template.spec.completion", 2, "completion"),
    Fault("", "engine-groups", GROUPS, "spec.leaderWorkerTemplate.restartPolicy", "Always", "Always"),
    Fault("", "engine-groups", GROUPS, "spec.leaderWorkerTemplate.workerTemplate", GONE, "workerTemplate"),
    Fault("", "engine-groups", GROUPS, f"{LEADER}.containers.0.env.0.value", 5, "5 is not of type"),
    Fault("", "multi-node", "Certificate/leeway-gateway", "spec.duration", "90d", "90d"),
    Fault("", "multi-node", "Certificate/leeway-gateway", "spec.usages.+", "server", "server"),
    Fault("", "multi-node", "Issuer/leeway-fleets", "spec.selfSigned", {}, "too many"),
    Fault("", "multi-node", "PodMonitor/leeway", "spec.podMetricsEndpoints.0.targetport", "x", "targetport"),
    Fault("", "multi-node", "LocalQueue/leeway", "apiVersion", "kueue.x-k8s.io/v1beta1", "v1beta2"),
]

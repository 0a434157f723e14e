"""Faults in names, ports, networks and selectors."""

from __future__ import annotations

from tests.deploy.faults import GONE, Fault
from tests.deploy.planted.targets import GATEWAY, GROUPS, JOB, JOBSET, LEADER, MAIN, NODE, POD, REDIS, WORKER

_EVERYBODY = {"podSelector": {}}

FAULTS = [
    # what is named exists
    Fault("references", "dev", "ConfigMap/leeway-gateway", "", GONE, "ConfigMap leeway-gateway"),
    Fault("references", "dev", "Secret/leeway-token", "", GONE, "Secret leeway-token"),
    Fault("references", "dev", "Secret/leeway-redis-password", "data", {"pass": "eA=="}, "has no password"),
    Fault("references", "dev", "PersistentVolumeClaim/leeway", "", GONE, "claim leeway"),
    Fault("references", "dev", "PriorityClass/leeway-queue", "", GONE, "priority class"),
    Fault("references", "dev", GATEWAY, f"{POD}.volumes.0", GONE, "no volume"),
    Fault("references", "dev", GATEWAY, f"{MAIN}.volumeMounts.0", GONE, "mounted nowhere"),
    Fault("references", "dev", GATEWAY, f"{MAIN}.volumeMounts.0.subPath", "gate.toml", "has no gate.toml"),
    Fault("references", "dev", GATEWAY, f"{MAIN}.env", [], "LEEWAY_REDIS_URL"),
    Fault("references", "dev", JOB, f"{MAIN}.env.0.valueFrom.configMapKeyRef.key", "address", "has no address"),
    Fault("references", "multi-node", JOBSET, f"{NODE}.volumes.0.configMap.name", "leeway-learner", "ConfigMap"),
    Fault("references", "multi-node", "Certificate/leeway-gateway", "", GONE, "Secret leeway-gateway-tls"),
    Fault("references", "multi-node", "Certificate/leeway-rollout", "", GONE, "Secret leeway-rollout-tls"),
    Fault("references", "multi-node", "Certificate/leeway-queue-client", "", GONE, "Secret leeway-queue-tls"),
    Fault("references", "multi-node", "Issuer/leeway-fleets", "", GONE, "issuer"),
    Fault("references", "multi-node", "Certificate/leeway-queue-ca", "", GONE, "nothing makes"),
    Fault("references", "multi-node", GROUPS, f"{LEADER}.containers.1.envFrom.0.secretRef.name", "s3", "Secret s3"),
    # ports
    Fault("ports", "dev", GATEWAY, f"{MAIN}.ports.0.containerPort", 50052, "by the configuration 50051"),
    Fault("ports", "dev", WORKER, f"{MAIN}.ports.0.containerPort", 9151, "by the configuration 9150"),
    Fault("ports", "multi-node", JOBSET, f"{NODE}.containers.0.ports.0.containerPort", 29500, "29400"),
    Fault("ports", "dev", "Service/leeway-gateway", "spec.ports.0.targetPort", "http", "no port http"),
    Fault("ports", "dev", "Service/leeway-gateway", "spec.ports.0.port", 443, "listens on 443"),
    Fault("ports", "dev", "Service/leeway-redis", "spec.selector", {"app": "redis"}, "selects no pod"),
    Fault("ports", "dev", "NetworkPolicy/leeway-gateway", "spec.ingress.0.ports.0.port", 50052, "no pod of it"),
    Fault("ports", "multi-node", "PodMonitor/leeway", "spec.podMetricsEndpoints.7", GONE, "status-7"),
    Fault("ports", "multi-node", "PodMonitor/leeway", "spec.jobLabel", "app", "component"),
    Fault(
        "ports", "dev", GATEWAY, "spec.template.metadata.annotations", {"prometheus.io/port": "9100"}, "prometheus.io"
    ),
    # who can reach whom
    Fault("network", "dev", "NetworkPolicy/leeway-default-deny", "", GONE, "denies"),
    Fault("network", "dev", "NetworkPolicy/leeway-dns", "", GONE, "look up"),
    Fault(
        "network",
        "dev",
        "NetworkPolicy/leeway-redis",
        "spec.ingress.0.from.+",
        _EVERYBODY,
        "leeway-redis can let in StatefulSet/leeway-rollout",
    ),
    Fault(
        "network",
        "dev",
        "NetworkPolicy/leeway-redis",
        "spec.ingress.0.from.1",
        GONE,
        "leeway-redis must let in Job/leeway-learner",
    ),
    Fault(
        "network",
        "dev",
        "NetworkPolicy/leeway-redis-clients",
        "",
        GONE,
        "leeway-gateway must send to StatefulSet/leeway-redis",
    ),
    Fault(
        "network", "dev", "NetworkPolicy/leeway-rollout", "spec.egress.0.to.0", _EVERYBODY, "leeway-rollout can send to"
    ),
    Fault("network", "dev", "NetworkPolicy/leeway-rollout", "spec.podSelector", {"matchLabels": {"x": "y"}}, "no pod"),
    Fault("network", "dev", "NetworkPolicy/leeway-gateway", "spec.ingress.1", GONE, "scraped"),
    Fault(
        "network",
        "dev",
        "NetworkPolicy/leeway-gateway",
        "spec.ingress.0.from.+",
        {"namespaceSelector": {}},
        "any namespace",
    ),
    Fault("network", "multi-node", "NetworkPolicy/leeway-learner", "spec.ingress.0", GONE, "must let in"),
    Fault(
        "network",
        "multi-node",
        "NetworkPolicy/leeway-object-storage",
        "spec.podSelector",
        {},
        "out of the cluster",
    ),
    Fault(
        "network",
        "multi-node",
        "NetworkPolicy/leeway-gateway-public",
        "spec.ingress.0.from.0.ipBlock.cidr",
        "0.0.0.0/0",
        "whole world",
    ),
    Fault("network", "fleet-remote", "NetworkPolicy/leeway-rollout", "spec.egress.0.ports.0.port", 22, "[22]"),
    # labels, budgets, autoscalers
    Fault("scaling", "dev", GATEWAY, "spec.selector.matchLabels.app~kubernetes~io/name", "gateway", "selector"),
    Fault("scaling", "dev", JOB, "spec.template.metadata.labels.leeway~dev/run", GONE, "leeway.dev/run"),
    Fault("scaling", "dev", REDIS, "spec.serviceName", "redis", "service redis"),
    Fault("scaling", "dev", GATEWAY, f"{POD}.topologySpreadConstraints", GONE, "one node"),
    Fault(
        "scaling",
        "multi-node",
        JOBSET,
        f"{NODE}.topologySpreadConstraints.0.labelSelector",
        {"matchLabels": {"x": "y"}},
        "spread",
    ),
    Fault("scaling", "multi-node", "HorizontalPodAutoscaler/leeway-gateway", "spec.scaleTargetRef.name", "g", "target"),
    Fault("scaling", "multi-node", GATEWAY, "spec.replicas", 2, "replicas of its own"),
    Fault("scaling", "multi-node", "PodDisruptionBudget/leeway-gateway", "spec.maxUnavailable", 0, "drained"),
    Fault(
        "scaling",
        "multi-node",
        "PodDisruptionBudget/leeway-gateway",
        "spec.selector",
        {"matchLabels": {"x": "y"}},
        "selects no pod",
    ),
    Fault("scaling", "multi-node", "LocalQueue/leeway", "metadata.name", "other", "no LocalQueue leeway"),
    Fault("scaling", "multi-node", GROUPS, "metadata.labels.kueue~x-k8s~io/queue-name", GONE, "not queued"),
    Fault("scaling", "single-node", JOB, "spec.template.metadata.labels.app~kubernetes~io/name", "x", "beside"),
]

"""Faults in settings: a process refuses them, or they contradict those of another."""

from __future__ import annotations

from tests.deploy.faults import GONE, Fault
from tests.deploy.planted.targets import ENGINES, GATEWAY, GROUPS, JOB, JOBSET, LEADER, MAIN, NODE, POD, REDIS, WORKER

_BESIDE = {"name": "worker", "image": "leeway-rollout:0.1.0", "resources": {"limits": {}}, "volumeMounts": []}
_DOMAIN = "leeway-gateway.leeway.svc.cluster.local"
_ELSEWHERE = 'engine.urls=["http://leeway-engine-1.leeway-engine:30000"]'

FAULTS = [
    # settings
    Fault("settings", "dev", "ConfigMap/leeway-gateway", "data.gateway~toml", ("insecure", "insecur"), "insecur"),
    Fault("settings", "dev", "ConfigMap/leeway-learner", "data.learner~toml", ("steps = 480", ""), "steps"),
    Fault("settings", "dev", "ConfigMap/leeway-worker", "data.worker~toml", ("9150", "9151"), "9151"),
    Fault(
        "settings", "dev", "ConfigMap/leeway-gateway", "data.gateway~toml", ("0.0.0.0:9101", "127.0.0.1:9101"), "127"
    ),
    Fault(
        "settings",
        "dev",
        "ConfigMap/leeway-worker",
        "data.worker~toml",
        ("/var/lib/leeway-state", "/root"),
        "no volume",
    ),
    Fault(
        "settings",
        "dev",
        "ConfigMap/leeway-worker",
        "data.worker~toml",
        ("leeway-state/logs", "leeway/logs"),
        "only read",
    ),
    Fault(
        "settings",
        "dev",
        "ConfigMap/leeway-worker",
        "data.worker~toml",
        ("token/token", "token/bearer"),
        "no such file",
    ),
    Fault("settings", "multi-node", "ConfigMap/leeway-gateway", "data.gateway~toml", ("client_ca", "# "), "client_ca"),
    Fault(
        "settings",
        "multi-node",
        "ConfigMap/leeway-redis",
        "data.url",
        "redis://leeway@leeway-redis:6379/0",
        "encryption",
    ),
    Fault("settings", "dev", "ConfigMap/leeway-redis", "data.url", "redis://leeway-redis:6379/0", "user of its own"),
    Fault("settings", "dev", JOB, f"{MAIN}.args.6", "/etc/leeway/other.toml", "mounted nowhere"),
    # several processes
    Fault(
        "agreement",
        "dev",
        "ConfigMap/leeway-worker",
        "data.worker~toml",
        ("leeway/weights", "leeway/other"),
        "allowed_uris",
    ),
    Fault("agreement", "dev", "ConfigMap/leeway-learner", "data.learner~toml", ("= 16", "= 32"), "groups_per_step"),
    Fault("agreement", "dev", JOB, f"{MAIN}.args.10", "queue.run=other", "run is other"),
    Fault(
        "agreement",
        "dev",
        "ConfigMap/leeway-gateway",
        "data.gateway~toml",
        ("expire_after = 32", "expire_after = 31"),
        "groups expire after 32 steps, the gateway refuses them after 31",
    ),
    Fault(
        "agreement",
        "dev",
        "ConfigMap/leeway-gateway",
        "data.gateway~toml",
        ("max_response_context_tokens = 4096", "max_response_context_tokens = 4097"),
        "micro_batch_tokens = 4096, the gateway takes segments of 4097 tokens together",
    ),
    Fault(
        "agreement",
        "dev",
        "ConfigMap/leeway-learner",
        "data.learner~toml",
        ("# [objective]: the default preset, as in configs/demo.toml", '[objective]\nname = "grpo"'),
        "truncated sampling cannot be trained, the gateway takes it",
    ),
    Fault(
        "agreement",
        "dev",
        "ConfigMap/leeway-worker",
        "data.worker~toml",
        ("responses = 8", "responses = 4"),
        "4 responses",
    ),
    Fault(
        "agreement", "dev", "ConfigMap/leeway-worker", "data.worker~toml", ("leeway-gateway:", "gateway:"), "Service"
    ),
    Fault("agreement", "dev", "ConfigMap/leeway-redis", "data.url", "redis://leeway@redis:6379/0", "Service redis"),
    Fault(
        "agreement",
        "dev",
        "ConfigMap/leeway-worker",
        "data.worker~toml",
        ("max_new_tokens = 7", "max_new_tokens = 99999"),
        "limit",
    ),
    Fault("agreement", "multi-node", "Certificate/leeway-gateway", "spec.dnsNames", ["other"], "does not name"),
    Fault(
        "agreement",
        "multi-node",
        "Certificate/leeway-gateway",
        "spec.dnsNames.+",
        _DOMAIN,
        "not every cluster's domain",
    ),
    Fault("agreement", "multi-node", "Certificate/leeway-redis", "spec.dnsNames", ["other"], "does not name"),
    Fault("agreement", "dev", WORKER, f"{MAIN}.volumeMounts.3.mountPath", "/mnt", "does not see"),
    Fault("agreement", "dev", REDIS, "spec.template.metadata.labels.leeway~dev/run", "other", "expected one"),
    Fault("agreement", "dev", "ConfigMap/leeway-worker", "data.worker~toml", ("[engine]", "[tls]\n\n[engine]"), "TLS"),
    # numbers that fit together
    Fault("layouts", "dev", JOB, f"{MAIN}.args.1", "--nproc-per-node=3", "multiple"),
    Fault("layouts", "single-node", JOB, f"{MAIN}.args.1", "--nproc-per-node=8", "8 ranks on 4 GPUs"),
    Fault("layouts", "multi-node", JOBSET, "spec.replicatedJobs.0.template.spec.parallelism", 3, "3 pods"),
    Fault("layouts", "multi-node", JOBSET, "metadata.name", "learner", "rdzv-endpoint"),
    Fault("layouts", "multi-node", JOBSET, f"{NODE}.containers.0.ports.8", GONE, "status ports"),
    Fault("layouts", "fleet-remote", WORKER, f"{MAIN}.args.2", "name=worker-0", "same prompts"),
    Fault("layouts", "fleet-remote", WORKER, f"{MAIN}.resources.limits.nvidia~com/gpu", "4", "end engines"),
    Fault("layouts", "fleet-remote", ENGINES, f"{MAIN}.resources.limits.nvidia~com/gpu", "8", "tp-size=4"),
    Fault("layouts", "engine-groups", GROUPS, f"{LEADER}.containers.+", _BESIDE, "recreate the whole group"),
    Fault("layouts", "engine-groups", GROUPS, "spec.leaderWorkerTemplate.size", 4, "tp-size"),
    Fault("layouts", "engine-groups", GROUPS, f"{LEADER}.containers.0.args.10", "--enable-metrics", "skip-tokenizer"),
    # a worker and its engine
    Fault("agreement", "multi-node", ENGINES, "spec.replicas", 2, "4 workers drive 2 engines"),
    Fault("agreement", "multi-node", WORKER, f"{MAIN}.args.6", _ELSEWHERE, "not the first pod"),
    Fault("agreement", "multi-node", ENGINES, f"{MAIN}.args.3", "--enable-metrics", "has a key, the other has none"),
    Fault("agreement", "multi-node", ENGINES, f"{MAIN}.volumeMounts.1", GONE, "does not see /var/lib/leeway-state"),
    Fault("agreement", "multi-node", "Service/leeway-engine", "spec.publishNotReadyAddresses", GONE, "every refit"),
    # how they end
    Fault("lifetimes", "dev", GATEWAY, f"{POD}.terminationGracePeriodSeconds", 10, "grace of 10"),
    Fault("lifetimes", "dev", GATEWAY, f"{MAIN}.lifecycle", GONE, "preStop"),
    Fault(
        "lifetimes",
        "multi-node",
        "ConfigMap/leeway-gateway",
        "data.gateway~toml",
        ("drain_s = 20", "drain_s = 60"),
        "60",
    ),
    Fault("lifetimes", "dev", JOB, f"{MAIN}.args.3", "--tee=3", "torchrun kills"),
    Fault("lifetimes", "dev", JOB, f"{POD}.terminationGracePeriodSeconds", 30, "grace of 30"),
    Fault("lifetimes", "dev", JOB, "spec.backoffLimit", 3, "not started again"),
    Fault("lifetimes", "multi-node", JOBSET, "spec.failurePolicy.maxRestarts", 0, "often enough"),
    Fault("lifetimes", "multi-node", JOBSET, "spec.failurePolicy.restartStrategy", "Recreate", "beside"),
    Fault("lifetimes", "multi-node", JOBSET, f"{NODE}.containers.0.livenessProbe.failureThreshold", 3, "liveness"),
    Fault("lifetimes", "multi-node", JOBSET, "spec.replicatedJobs.0.template.spec.podFailurePolicy", GONE, "eviction"),
    Fault("lifetimes", "dev", WORKER, f"{POD}.terminationGracePeriodSeconds", GONE, "no grace"),
    Fault("lifetimes", "dev", REDIS, f"{POD}.terminationGracePeriodSeconds", 5, "Redis"),
    # Redis
    Fault("queue", "dev", "ConfigMap/leeway-redis-server", "data.redis~conf", ("always", "everysec"), "appendfsync"),
    Fault(
        "queue", "dev", "ConfigMap/leeway-redis-server", "data.redis~conf", ("noeviction", "allkeys-lru"), "maxmemory"
    ),
    Fault("queue", "dev", "ConfigMap/leeway-redis-server", "data.redis~conf", ("768mb", "2gb"), "limit"),
    Fault(
        "queue", "dev", "ConfigMap/leeway-redis-server", "data.redis~conf", ("percentage 100", "percentage 0"), "bound"
    ),
    Fault(
        "queue", "dev", REDIS, "spec.volumeClaimTemplates.0.spec.resources.requests.storage", "2Gi", "3 times maxmemory"
    ),
    Fault("queue", "dev", REDIS, f"{POD}.volumes.2.projected.sources.1.secret.optional", GONE, "rotated"),
    Fault("queue", "single-node", REDIS, f"{MAIN}.args.1", "4gb", "backlog"),
    Fault("queue", "dev", "ConfigMap/leeway-redis-server", "data.redis~conf", ("dir /data", "dir /tmp"), "no volume"),
    Fault("queue", "dev", "ConfigMap/leeway-redis-users", "data.leeway", ("+get", "+get +flushall"), "acl.py"),
    Fault("queue", "dev", "ConfigMap/leeway-redis-users", "data.guest", "+@all", "guest"),
    Fault("queue", "multi-node", "ConfigMap/leeway-redis-users", "data.exporter", ("+ping", "+@read"), "exporter"),
    Fault("queue", "multi-node", "ConfigMap/leeway-redis-server", "data.tls~conf", ("port 0", ""), "plain text"),
    Fault(
        "queue", "multi-node", "ConfigMap/leeway-redis-server", "data.tls~conf", ("clients yes", "clients no"), "ask"
    ),
]

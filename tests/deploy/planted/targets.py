"""Objects, and paths in them, where faults are planted."""

from __future__ import annotations

GATEWAY = "Deployment/leeway-gateway"
REDIS = "StatefulSet/leeway-redis"
WORKER = "StatefulSet/leeway-rollout"
JOB = "Job/leeway-learner"
JOBSET = "JobSet/leeway-learner"
ENGINES = "StatefulSet/leeway-engine"
GROUPS = "LeaderWorkerSet/leeway-engine"
BACKUP = "CronJob/leeway-backup"
BACKUP_POD = "spec.jobTemplate.spec.template.spec"
POD = "spec.template.spec"
MAIN = f"{POD}.containers.0"
USER = f"{POD}.containers.1"
NODE = "spec.replicatedJobs.0.template.spec.template.spec"
LEADER = "spec.leaderWorkerTemplate.leaderTemplate.spec"

"""Policy on how processes end: what they finish after SIGTERM fits into the time that Kubernetes gives them."""

from __future__ import annotations

from collections.abc import Iterator

from learner.config import GatewayConfig, LearnerConfig
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import Process, of_kind, processes
from tests.deploy.workloads import Pod, pods

_TORCHRUN_S = 30  # its own --shutdown-timeout, if none is given
_REDIS_S = 30
_RESTARTS = 100
_MARGIN_S = 5  # for what is not a drain or a checkpoint
_IN_PLACE_S = 600  # ranks that torchrun starts again answer nothing while they load


def lifetimes(objects: list[Object]) -> list[str]:
    """Checks that grace periods cover preStop and drain, or a step and a checkpoint, and that something restarts each pod."""
    found, _ = processes(objects)
    wrong = [f"{at.where}: {line}" for at, config in of_kind(found, GatewayConfig) for line in _gateway(at, config)]
    wrong += [f"{at.where}: {line}" for at, config in of_kind(found, LearnerConfig) for line in _learner(at, config)]
    for pod in pods(objects):
        if "terminationGracePeriodSeconds" not in pod.spec:
            wrong.append(f"{pod.where}: no grace period")
        if pod.component == "redis" and pod.spec.get("terminationGracePeriodSeconds", 0) < _REDIS_S:
            wrong.append(f"{pod.where}: Redis has too little time to write its file")
    return wrong


def _gateway(process: Process, config: GatewayConfig) -> Iterator[str]:
    before = process.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = process.pod.spec.get("terminationGracePeriodSeconds", 0)
    if not before:
        yield "no preStop: new connections still come when the drain begins"
    if grace < before + config.drain_s + _MARGIN_S:
        yield f"grace of {grace} s for preStop {before} s, drain_s = {config.drain_s:g} and {_MARGIN_S} s"


def _learner(process: Process, config: LearnerConfig) -> Iterator[str]:
    grace = process.pod.spec.get("terminationGracePeriodSeconds", 0)
    shutdown = int(process.option("shutdown-timeout") or _TORCHRUN_S)
    if shutdown < config.stop_grace_s + _MARGIN_S:
        yield f"torchrun kills the ranks {shutdown} s after SIGTERM, stop_grace_s = {config.stop_grace_s:g}"
    if grace < shutdown + _MARGIN_S:
        yield f"grace of {grace} s, torchrun's --shutdown-timeout is {shutdown} s"
    alive = process.container.get("livenessProbe", {})
    patience = alive.get("periodSeconds", 10) * alive.get("failureThreshold", 3)
    if int(process.option("max-restarts") or 0) and patience < _IN_PLACE_S:
        yield f"liveness gives up after {patience} s, before ranks that torchrun restarts have loaded"
    yield from _restarts(process.pod)


def _restarts(pod: Pod) -> Iterator[str]:
    spec = pod.owner["spec"]
    if pod.owner["kind"] == "Job":
        if spec.get("backoffLimit", 6) < _RESTARTS or pod.spec["restartPolicy"] != "OnFailure":
            yield "a learner that dies often enough is not started again"
        return
    policy = spec.get("failurePolicy", {})
    if policy.get("maxRestarts", 0) < _RESTARTS:
        yield "the JobSet does not start the learner again often enough"
    if policy.get("restartStrategy") != "BlockingRecreate":
        yield "new pods may start beside old ones"
    for job in spec["replicatedJobs"]:
        rules = job["template"]["spec"].get("podFailurePolicy", {}).get("rules", [])
        ignored = [kind["type"] for rule in rules if rule["action"] == "Ignore" for kind in rule["onPodConditions"]]
        if "DisruptionTarget" not in ignored:
            yield f"{job['name']}: an eviction counts as a failure"

"""Policy on how processes end: what they finish after SIGTERM fits into the time that Kubernetes gives them."""

from __future__ import annotations

from collections.abc import Iterator

from learner.checkpoint.rollback import ROLLED_BACK
from learner.config import GatewayConfig, LearnerConfig
from runtime.errors import FAILED, MISCONFIGURED, REFUSED
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
    for process in found:
        wrong += [f"{process.where}: {line}" for line in _reason(process)]
    for pod in pods(objects):
        if "terminationGracePeriodSeconds" not in pod.spec:
            wrong.append(f"{pod.where}: no grace period")
        if pod.component == "redis" and pod.spec.get("terminationGracePeriodSeconds", 0) < _REDIS_S:
            wrong.append(f"{pod.where}: Redis has too little time to write its file")
    return wrong


def _reason(process: Process) -> Iterator[str]:
    """Checks that the pod's status says why a process of ours has ended: its own words, else the end of its log."""
    written = {item["name"]: item.get("value") for item in process.container.get("env", [])}
    path = process.container.get("terminationMessagePath", "/dev/termination-log")
    if written.get("LEEWAY_TERMINATION_LOG") != path:
        yield f"its reason to end is not in the pod's status: set LEEWAY_TERMINATION_LOG to {path}"
    if process.container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        yield "a crash leaves no reason in the pod's status: expected terminationMessagePolicy FallbackToLogsOnError"
    if isinstance(process.config, LearnerConfig) and "learner.node" not in process.words:
        yield "torchrun ends with status 1 whatever a rank ends with: expected python -m learner.node"


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
    if pod.spec["restartPolicy"] != "Never":
        yield "the kubelet starts it again, whatever its exit status: expected restartPolicy Never"
    if pod.owner["kind"] == "Job":
        if spec.get("backoffLimit", 6) < _RESTARTS:
            yield "a learner that dies often enough is not started again"
        yield from _statuses(spec)
        return
    policy = spec.get("failurePolicy", {})
    if policy.get("maxRestarts", 0) < _RESTARTS:
        yield "the JobSet does not start the learner again often enough"
    if policy.get("restartStrategy") != "BlockingRecreate":
        yield "new pods may start beside old ones"
    final = [rule["onJobFailureReasons"] for rule in policy.get("rules", []) if rule["action"] == "FailJobSet"]
    if ["PodFailurePolicy"] not in final:
        yield "a JobSet whose learner refuses its configuration starts it again: expected a rule FailJobSet"
    for job in spec["replicatedJobs"]:
        yield from (f"{job['name']}: {problem}" for problem in _statuses(job["template"]["spec"]))


def _statuses(job: Object) -> Iterator[str]:
    """Checks that a Job tells an eviction, a rollback and a wrong configuration from a failure."""
    rules = job.get("podFailurePolicy", {}).get("rules", [])
    ignored = [kind["type"] for rule in rules if rule["action"] == "Ignore" for kind in rule.get("onPodConditions", [])]
    if "DisruptionTarget" not in ignored:
        yield "an eviction counts as a failure"
    acts = {
        status: rule["action"] for rule in reversed(rules) for status in rule.get("onExitCodes", {}).get("values", [])
    }
    expected = {MISCONFIGURED: "FailJob", REFUSED: "FailJob", ROLLED_BACK: "Ignore"}
    for status, action in expected.items():
        if acts.get(status) != action:
            yield f"exit status {status} of the learner: {acts.get(status, 'a failure')}, expected {action}"
    if FAILED in acts:
        yield f"exit status {FAILED} is an ordinary failure, and there is a rule for it"

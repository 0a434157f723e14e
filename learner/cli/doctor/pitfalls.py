"""Settings that are allowed, and seldom meant."""

from __future__ import annotations

from collections.abc import Iterator

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.subject import Subject
from learner.config import GatewayConfig, LearnerConfig
from learner.config.objective import READS
from rollout.config import WorkerConfig

# Objectives that need no log-probabilities of the versions that generated (learner.objectives, which needs torch).
BEHAVIOUR_FREE = frozenset({"asympo", "spo", "reinforce", "positives", "opmd", "asymre", "sft"})
_RESEND_S = 600  # an outage that a fleet may sit out with groups in hand


def pitfalls(subject: Subject) -> Iterator[Finding]:
    """Rules over several settings, or several processes."""
    findings: list[Finding] = []
    if subject.learner is not None:
        findings += _learner(subject.learner)
    if subject.gateway is not None:
        findings += _gateway(subject.gateway)
    for worker in subject.workers:
        findings += _worker(worker, subject)
    yield from findings
    if not findings:
        yield ok("settings", "nothing that is allowed and seldom meant")


def _learner(learner: LearnerConfig) -> Iterator[Finding]:
    publish, bound, name = learner.publish, learner.max_staleness, learner.objective.name
    if name in READS and name not in BEHAVIOUR_FREE and publish.keep * publish.every < bound:
        text = f"{name} recomputes with the versions that generated: up to {bound} steps old, {publish.keep} are kept"
        yield warn(
            "settings", text, f"publish.keep = {-(-bound // publish.every) + 1}, or what is not kept is read again"
        )
    if publish.every > max(1, bound):
        text = f"publish.every = {publish.every} is above max_staleness = {bound}: groups are too old before a newer version"
        yield fail("settings", text, f"publish.every = {max(1, bound)} at most")
    if bound == 0:
        text = "max_staleness = 0: fleets wait for every step"
        yield warn("settings", text, "1 or more, unless that is what you compare")
    if learner.queue.id_memory_s < _RESEND_S:
        text = f"queue.id_memory_s = {learner.queue.id_memory_s}: a group sent again after that is taken twice"
        yield warn("settings", text, "longer than any outage: 86400 is the default")
    if learner.checkpoint.every > 500:
        text = f"checkpoint.every = {learner.checkpoint.every} steps are done again after a failure"
        yield warn("settings", text, "what you can afford to lose")


def _gateway(gateway: GatewayConfig) -> Iterator[Finding]:
    if gateway.insecure:
        yield warn("settings", f"gateway.insecure: tokens travel in plain text to {gateway.listen}", "gateway.tls")
    if gateway.admission.lease_s < 5:
        text = f"admission.lease_s = {gateway.admission.lease_s:g}: promises end while groups are generated"
        yield warn("settings", text, "longer than the slowest group")


def _worker(worker: WorkerConfig, subject: Subject) -> Iterator[Finding]:
    engines = len(worker.engine.urls) or worker.engine.count
    at_once = worker.groups_per_request * worker.requests * engines * len(subject.workers)
    if subject.learner is not None:
        room = subject.learner.groups_per_step * (subject.learner.max_staleness + 1)
        if at_once > room:
            text = f"workers ask for {at_once} groups at once, max_staleness lets {room} exist"
            yield warn("settings", text, "fewer rollout.requests or groups_per_request: engines will wait for leases")
    if worker.engine.request_timeout_s < 0.01 * worker.sampling.max_new_tokens:
        text = f"engine.request_timeout_s = {worker.engine.request_timeout_s:g} for {worker.sampling.max_new_tokens} tokens"
        yield warn("settings", text, "a request that takes longer counts as an engine's death")

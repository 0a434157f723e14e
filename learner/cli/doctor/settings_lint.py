"""Warns of settings that are allowed but usually a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from learner.config import GatewayConfig, LearnerConfig
from learner.config.objectives_table import OBJECTIVES
from rollout.config import WorkerConfig

_RESEND_S = 600  # an outage through which a fleet may keep groups and submit them again


def settings_lint(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks rules over several settings, or over the settings of several processes."""
    findings: list[Finding] = []
    if examined.learner is not None:
        findings += _learner(examined.learner)
    if examined.gateway is not None:
        findings += _gateway(examined.gateway)
    for worker in examined.workers:
        findings += _worker(worker, examined)
    yield from findings
    if not findings:
        yield ok("settings", "none that is allowed but usually a mistake")


def _learner(learner: LearnerConfig) -> Iterator[Finding]:
    publish, bound, name = learner.publish, learner.max_staleness, learner.objective.name
    needs_behaviour = name in OBJECTIVES and OBJECTIVES[name].needs_behaviour
    if needs_behaviour and publish.keep * publish.every < bound:
        text = (
            f"{name} recomputes log-probabilities with the versions that generated: these are up to {bound} steps old, and "
            f"only {publish.keep} versions are kept"
        )
        keep = -(-bound // publish.every) + 1
        yield warn("settings", text, f"set publish.keep to {keep} or more")
    last = max(1, learner.expiry_bound)
    if publish.every > last:
        text = f"publish.every = {publish.every}: groups expire after {last} steps, before there is the next version"
        yield fail("settings", text, f"set publish.every to {last} at most")
    if bound == 0:
        text = "max_staleness = 0: fleets wait for every step"
        yield warn("settings", text, "set it to 1 or more, unless strictly on-policy training is what you want")
    if learner.queue.id_memory_s < _RESEND_S:
        text = f"queue.id_memory_s = {learner.queue.id_memory_s}: a group that is resent later than that is refused"
        yield warn("settings", text, "make it longer than any outage; the default is 86400")
    if learner.checkpoint.every > 500:
        text = f"checkpoint.every = {learner.checkpoint.every}: a failure costs up to that many steps"
        yield warn("settings", text, "set it to the number of steps you can afford to repeat")


def _gateway(gateway: GatewayConfig) -> Iterator[Finding]:
    if gateway.insecure:
        text = f"gateway.insecure = true: tokens travel in plain text to {gateway.listen}"
        yield warn("settings", text, "set gateway.tls instead")
    if gateway.admission.lease_s < 5:
        text = f"admission.lease_s = {gateway.admission.lease_s:g}: leases end while their groups are generated"
        yield warn("settings", text, "make it longer than the slowest group takes")


def _worker(worker: WorkerConfig, examined: ExaminedConfig) -> Iterator[Finding]:
    engines = len(worker.engine.urls) or worker.engine.count
    at_once = worker.groups_per_request * worker.requests * engines * len(examined.workers)
    if examined.learner is not None:
        capacity = examined.learner.groups_per_step * (examined.learner.max_staleness + 1)
        if at_once > capacity:
            text = f"workers ask for {at_once} groups at once, but max_staleness allows only {capacity}"
            yield warn("settings", text, "lower rollout.requests or groups_per_request: engines would wait for leases")
    limit_s = worker.engine.request_timeout_s
    if limit_s is not None and limit_s < 0.01 * worker.sampling.max_new_tokens:
        text = (
            f"engine.request_timeout_s = {limit_s:g} for up to {worker.sampling.max_new_tokens} "
            "tokens: a request that takes longer counts as a failure of the engine"
        )
        yield warn("settings", text, "allow at least 10 ms for each token")

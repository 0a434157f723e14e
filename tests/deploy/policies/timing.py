"""Policy on numbers that come from different files and must agree: times of alerts, leases and requests, sizes of volumes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import yaml

from learner.config import GatewayConfig, LearnerConfig
from learner.config.memory import checkpoint_bytes, parameter_count
from learner.config.workload import WIDTH
from rollout.config import WorkerConfig
from tests.deploy.manifests import ROOT, Object
from tests.deploy.policies.processes import Process, of_kind, processes
from tests.deploy.workloads import named, quantity
from tests.tools.memory_table import B8, B70

# What a learner's GPU does and how long responses are, as deploy/README.md assumes: operations/s used of an H100's peak.
_OPERATIONS = 0.35 * 989e12
_OPERATIONS_A_WEIGHT = 8  # of a token, with recompute = "full"
_LONG = 0.5  # mean length of a response, of max_new_tokens
_SHARED_VOLUME = 3e9  # bytes/s that a checkpoint is written with, at the most
# Overlay's learner -> the model that its comments name. The demo's is so small that no time and no size matters.
_MODELS: dict[int, Mapping[str, Any]] = {4: B8, 16: B70}


def limits() -> dict[str, float]:
    """Thresholds of the alerts, from deploy/prometheus/rules/limits.yaml."""
    file = yaml.safe_load((ROOT / "deploy/prometheus/rules/limits.yaml").read_text())
    rules = file["groups"][0]["rules"]
    values = {rule["record"].rpartition(":")[2]: re.fullmatch(r"vector\(([\d.]+)\)", rule["expr"]) for rule in rules}
    return {name: float(found[1]) for name, found in values.items() if found}


def timing(objects: list[Object]) -> list[str]:
    """Checks checkpoints against their alert and their volume, and requests of engines against leases and alerts."""
    found, _ = processes(objects)
    workers, gateways = of_kind(found, WorkerConfig), of_kind(found, GatewayConfig)
    learners, limit = of_kind(found, LearnerConfig), limits()
    wrong = []
    for (at, worker), (_, gateway) in product(workers, gateways):
        wrong += [f"{at.where}: {line}" for line in _requests(worker, gateway, limit)]
    for (at, learner), (_, worker) in product(learners, workers):
        if learner.dtype == "bfloat16":  # not the demo
            wrong += [f"{at.where}: {line}" for line in _learner(at, learner, worker, objects, limit)]
    return wrong


def _requests(worker: WorkerConfig, gateway: GatewayConfig, limit: dict[str, float]) -> Iterator[str]:
    longest, lease = worker.request_timeout_s, gateway.admission
    if lease.longest_lease_s < longest:
        yield f"a request may take {longest:g} s, and its lease is not renewed after {lease.longest_lease_s:g} s"
    # While a request goes on the worker renews its leases, three times in lease_s: so is a fleet heard.
    if limit["fleet_silent_seconds"] < 2 * lease.lease_s:
        yield f"a fleet counts as silent after {limit['fleet_silent_seconds']:g} s, leases last {lease.lease_s:g} s"


def _learner(
    at: Process, learner: LearnerConfig, worker: WorkerConfig, objects: list[Object], limit: dict
) -> Iterator[str]:
    ranks = int(at.option("nnodes") or 1) * int(at.option("nproc-per-node") or 1)
    parameters = parameter_count(_MODELS[ranks])
    tokens = learner.groups_per_step * worker.sampling.responses * worker.sampling.max_new_tokens * _LONG
    step_s = tokens * _OPERATIONS_A_WEIGHT * parameters / (ranks * _OPERATIONS)
    between_s = learner.checkpoint.every * step_s
    if between_s * 1.25 > limit["checkpoint_age_seconds"]:
        yield f"{between_s:.0f} s between checkpoints, a person is called at {limit['checkpoint_age_seconds']:g} s"
    if step_s * 1.25 > limit["no_progress_seconds"]:
        yield f"a step takes {step_s:.0f} s, a person is called at {limit['no_progress_seconds']:g} s"
    saved = checkpoint_bytes(parameters, learner.dtype, averaged=learner.publish.average > 0)
    if step_s + saved / _SHARED_VOLUME > learner.stop_grace_s:
        yield f"a step of {step_s:.0f} s and a checkpoint of {saved / 1e9:.0f} GB do not fit in stop_grace_s"
    needed = (learner.checkpoint.keep + 2) * saved + (learner.publish.keep + 3) * parameters * WIDTH["bfloat16"]
    claim = named(objects, "PersistentVolumeClaim")["leeway"]["spec"]["resources"]["requests"]["storage"]
    if quantity(claim) < needed:
        yield f"the claim leeway has {quantity(claim) / 1e9:.0f} GB, checkpoints and versions take {needed / 1e9:.0f} GB"

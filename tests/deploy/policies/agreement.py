"""Policy on what several processes must agree on: run, sizes of groups and steps, addresses, numbers of replicas."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

from learner.config import GatewayConfig, LearnerConfig
from learner.config.behaviour import takes_truncated_sampling
from rollout.config import WorkerConfig
from runtime.version_format.places import place_of
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import Process, of_kind, processes
from tests.deploy.workloads import Pod, named, pods

_RUN = "leeway.dev/run"


def agreement(objects: list[Object]) -> list[str]:
    """Checks that gateway, learner and workers of an overlay belong to one run, with the same limits and paths."""
    found, _ = processes(objects)
    gateways, learners = of_kind(found, GatewayConfig), of_kind(found, LearnerConfig)
    workers = of_kind(found, WorkerConfig)
    wrong = list(_run(found, objects))
    for (process, learner), (_, gateway) in product(learners, gateways):
        wrong += [f"{process.where}: {line}" for line in _learner(learner, gateway)]
    for (process, worker), (_, gateway) in product(workers, gateways):
        wrong += [f"{process.where}: {line}" for line in _worker(worker, gateway, objects)]
    for (process, worker), (at, learner) in product(workers, learners):
        wrong += [f"{process.where}: {line}" for line in _weights(process, worker, at, learner)]
    for process, worker in workers:
        wrong += [f"{process.where}: {line}" for line in _engine(process, worker, objects)]
    for process, config in [*gateways, *learners]:
        wrong += [f"{process.where}: {line}" for line in _place(config.queue.url, "leeway-redis", objects)]
    return wrong


def _run(found: list[Process], objects: list[Object]) -> Iterator[str]:
    labels = {pod.labels.get(_RUN) for pod in pods(objects)}
    if len(labels) != 1 or None in labels:
        yield f"pods have the runs {sorted(map(str, labels))}: expected one, on each"
    for process in found:
        config = process.config
        name = config.run if isinstance(config, WorkerConfig) else config.queue.run
        if name not in labels:
            yield f"{process.where}: its run is {name}, its pod's label says {sorted(map(str, labels))}"


def _learner(learner: LearnerConfig, gateway: GatewayConfig) -> Iterator[str]:
    for name in ("groups_per_step", "max_staleness", "weights"):
        one, other = getattr(learner, name), getattr(gateway.admission, name)
        if one != other:
            yield f"{name} = {one}, the gateway admits by {other}"
    if learner.expiry_bound != gateway.admission.expire_after:
        yield f"groups expire after {learner.expiry_bound} steps, the gateway refuses them {_after(gateway)}"
    segments = gateway.limits.max_response_context_tokens
    if learner.micro_batch_tokens != segments:
        yield f"micro_batch_tokens = {learner.micro_batch_tokens}, the gateway takes segments of {segments} tokens together"
    truncated = takes_truncated_sampling(learner.objective, learner.behaviour)
    if truncated != gateway.limits.truncated_sampling:
        takes = "takes" if gateway.limits.truncated_sampling else "refuses"
        yield f"truncated sampling {'can' if truncated else 'cannot'} be trained, the gateway {takes} it"
    if learner.queue.url != gateway.queue.url:
        yield f"queue.url = {learner.queue.url}, the gateway's is {gateway.queue.url}"


def _after(gateway: GatewayConfig) -> str:
    bound = gateway.admission.expire_after
    return "at no age" if bound is None else f"after {bound}"


def _worker(worker: WorkerConfig, gateway: GatewayConfig, objects: list[Object]) -> Iterator[str]:
    smallest, largest = gateway.limits.group_size
    if not smallest <= worker.sampling.responses <= largest:
        yield f"{worker.sampling.responses} responses a group, the gateway takes {smallest} to {largest}"
    if worker.sampling.max_new_tokens > gateway.limits.max_response_tokens:
        yield f"max_new_tokens = {worker.sampling.max_new_tokens}, above the gateway's limit"
    if worker.max_message_bytes > gateway.limits.max_message_bytes:
        yield f"max_message_bytes = {worker.max_message_bytes}, above the gateway's limit"
    if (worker.tls is None) != (gateway.tls is None):
        yield "one of worker and gateway speaks TLS, the other does not"
    yield from _place(f"grpc{'s' if worker.tls else ''}://{worker.gateway}", "leeway-gateway", objects)


def _place(url: str, certificate: str, objects: list[Object]) -> Iterator[str]:
    """Checks that an address in the cluster is a Service with that port, whose certificate has that name."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if "." in host:
        return
    service = named(objects, "Service").get(host)
    if service is None or port not in [item["port"] for item in service["spec"]["ports"]]:
        yield f"{url}: there is no Service {host} with port {port}"
    issued = named(objects, "Certificate").get(certificate, {}).get("spec", {}).get("dnsNames", [])
    if any("cluster.local" in name for name in issued):
        yield f"the certificate {certificate} names {issued}: not every cluster's domain is cluster.local"
    if parts.scheme in ("rediss", "grpcs") and host not in issued:
        yield f"{url}: the certificate {certificate} does not name {host}"


def _engine(process: Process, worker: WorkerConfig, objects: list[Object]) -> Iterator[str]:
    """Checks that a worker's engine exists, is its alone, and reads weights where the worker has verified them."""
    for url in worker.engine.urls:
        parts = urlsplit(url)
        host, _, service = (parts.hostname or "").partition(".")
        engines = [
            pod for pod in pods(objects) if pod.component == "engine" and pod.owner["metadata"]["name"] == service
        ]
        if host != f"{service}-0" or not engines or parts.port not in engines[0].ports().values():
            yield f"engine {url}: not the first pod of a set of engines, as that of the first worker has to be"
            continue
        engine = engines[0]  # of a group the leader, which is the one that is called
        if not named(objects, "Service").get(service, {}).get("spec", {}).get("publishNotReadyAddresses"):
            yield f"engine {url}: has no address while it is not ready, which it is at every refit"
        if engine.count != process.pod.count:
            yield f"{process.pod.count} workers drive {engine.count} engines: each its own"
        if (worker.engine.key_file is None) == ("--api-key=" in " ".join(engine.containers()[0]["args"])):
            yield f"engine {url}: one of worker and engine has a key, the other has none"
        for path in (worker.model, worker.cache_dir or worker.state_dir, *_files(worker.allowed_uris)):
            if _claim(process.pod, process.container, path) != _claim(engine, engine.containers()[0], path):
                yield f"engine {url}: does not see {path} of its worker at that path"


def _files(uris: list[str]) -> list[Path]:
    return [Path(urlsplit(uri).path) for uri in uris if urlsplit(uri).scheme == "file"]


def _weights(process: Process, worker: WorkerConfig, at: Process, learner: LearnerConfig) -> Iterator[str]:
    """Checks that the worker can reach a place where versions are announced, and is allowed to read there."""
    if worker.model != learner.model:
        yield f"model = {worker.model}, the learner's is {learner.model}"
    directory = learner.publish.dir
    shared = _claim(process.pod, process.container, directory) == _claim(at.pod, at.container, directory)
    if not learner.publish.mirror and not shared:
        yield f"it does not see the learner's {learner.publish.dir} at that path"
    places = [learner.publish.dir.as_uri()] if shared else []
    places += [mirror.url for mirror in learner.publish.mirror]
    allowed = [place_of(uri) for uri in worker.allowed_uris]
    if places and not any(one.contains(place_of(place)) for one in allowed for place in places):
        yield f"allowed_uris = {worker.allowed_uris}: versions are at {', '.join(places)}"


def _claim(pod: Pod, container: Object, path: Path) -> Object | None:
    """The claim that a container has at a path; None where there is none."""
    volumes = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod.spec["volumes"]}
    mounts = {item["mountPath"]: volumes.get(item["name"]) for item in container["volumeMounts"]}
    return next((mounts[place] for place in mounts if path.is_relative_to(place)), None)

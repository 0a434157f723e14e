"""Policy on numbers of pods, ranks and GPUs that have to fit together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from learner.config import LearnerConfig
from rollout.config import EngineConfig, WorkerConfig
from rollout.engine.server_process import _ALWAYS as ENGINE_FLAGS  # pyright: ignore[reportPrivateUsage]
from tests.deploy.manifests import Object
from tests.deploy.policies.processes import Process, environment, of_kind, processes
from tests.deploy.workloads import Pod, expanded, pods

_GPU = "nvidia.com/gpu"
_RENDEZVOUS = 29_400


def layouts(objects: list[Object]) -> list[str]:
    """Checks that torchrun starts a rank per GPU, that the layout divides the ranks, and that workers differ."""
    found, _ = processes(objects)
    wrong = [f"{at.where}: {line}" for at, config in of_kind(found, LearnerConfig) for line in _learner(at, config)]
    for process, config in of_kind(found, WorkerConfig):
        if config.name != "pod-0":
            wrong.append(f"{process.where}: its name is not the pod's, so that all workers ask the same prompts")
        wrong += [f"{process.where}: {line}" for line in _engines(process, config)]
    for pod in pods(objects):
        if pod.owner["kind"] == "LeaderWorkerSet" and [item["name"] for item in pod.containers()] != ["engine"]:
            wrong.append(f"{pod.where}: the end of another container than the engine would recreate the whole group")
        for item in pod.containers():
            if item["name"] == "engine":
                words = expanded(item["args"], environment(item, objects))
                wrong += [f"{pod.where} engine: {line}" for line in _server(pod, item, words)]
    return wrong


def _learner(process: Process, config: LearnerConfig) -> Iterator[str]:
    nodes, ranks = int(process.option("nnodes") or 1), int(process.option("nproc-per-node") or 1)
    cut = config.parallel.ranks
    if nodes * ranks % cut:
        yield f"{nodes} x {ranks} ranks are no multiple of {cut}, as learner.parallel needs"
    if nodes != process.pod.count:
        yield f"torchrun waits for {nodes} nodes, and there are {process.pod.count} pods"
    gpus = process.container["resources"]["limits"].get(_GPU)
    if gpus is not None and int(gpus) != ranks:
        yield f"{ranks} ranks on {gpus} GPUs"
    status = [name for name in process.pod.ports() if name.startswith("status")]
    if len(status) != ranks:
        yield f"{len(status)} status ports for {ranks} ranks"
    if nodes > 1:
        yield from _rendezvous(process)


def _rendezvous(process: Process) -> Iterator[str]:
    """Checks that the rendezvous is the first pod's full name, by which the pod knows without DNS that it is the host."""
    owner = process.pod.owner
    job = process.pod.where.rpartition("/")[2]
    subdomain = owner["spec"]["network"]["subdomain"]
    namespace = owner["metadata"]["namespace"]
    expected = f"{owner['metadata']['name']}-{job}-0-0.{subdomain}.{namespace}.svc.cluster.local:{_RENDEZVOUS}"
    if process.option("rdzv-endpoint") != expected:
        yield f"--rdzv-endpoint is {process.option('rdzv-endpoint')}, the first pod is {expected}"


def _engines(process: Process, config: WorkerConfig) -> Iterator[str]:
    gpus = process.container["resources"]["limits"].get(_GPU)
    if not config.engine.urls:
        width = _tensor_parallel(config.engine)
        if (config.engine.device == "cuda" and gpus is None) or (gpus and int(gpus) != config.engine.count * width):
            yield f"{config.engine.count} engines of {width} GPUs each, and it has {gpus}"
    elif any(_GPU in item["resources"].get("limits", {}) for item in process.pod.containers()):
        yield "its pod has GPUs: a restart of the worker's container would end engines that it does not own"


def _tensor_parallel(engine: EngineConfig) -> int:
    flags = engine.arguments
    return next((int(value) for flag, value in pairwise(flags) if flag in ("--tp-size", "--tp")), 1)


def _server(pod: Pod, container: Object, words: list[str]) -> Iterator[str]:
    options: dict[str, str] = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        options[name] = value
    size = pod.owner["spec"].get("leaderWorkerTemplate", {}).get("size", 1)
    gpus = int(container["resources"]["limits"][_GPU])
    if int(options["tp-size"]) != size * gpus:
        yield f"--tp-size={options['tp-size']}, and a group has {size} x {gpus} GPUs"
    if int(options["port"]) != pod.ports()["engine"]:
        yield f"--port={options['port']}, its port is {pod.ports()['engine']}"
    flags, given = " ".join(ENGINE_FLAGS).replace("--log-level-http ", "--log-level-http=").split(), set(words)
    for flag in flags:
        if flag not in given:
            yield f"lacks {flag}, which every engine of ours has"

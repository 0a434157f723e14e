"""Reads the settings of the processes that the pods run, as the processes themselves do."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from learner.config import GatewayConfig, LearnerConfig
from rollout.config import WorkerConfig
from runtime.settings import SettingsError
from tests.deploy.manifests import Object
from tests.deploy.workloads import Pod, expanded, named, pods

# Module that a container runs -> its settings.
CLASSES = {"learner.gateway": GatewayConfig, "learner": LearnerConfig, "rollout": WorkerConfig}
_FIELDS = {
    "metadata.name": "pod-0",
    "status.podIP": "192.0.2.1",
    "metadata.labels['apps.kubernetes.io/pod-index']": "0",
}
Config = GatewayConfig | LearnerConfig | WorkerConfig
Kind = TypeVar("Kind", GatewayConfig, LearnerConfig, WorkerConfig)


@dataclass(frozen=True)
class Process:
    """A process of ours in a pod.

    Attributes:
        words: command and arguments, variables expanded.
        config: the settings that it would read.
    """

    pod: Pod
    container: Object
    words: list[str]
    config: Config

    @property
    def where(self) -> str:
        return f"{self.pod.where} {self.container['name']}"

    def option(self, name: str) -> str | None:
        """Value of ``--name=value`` on the command line."""
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"--{name}=")), None)


def processes(objects: list[Object]) -> tuple[list[Process], list[str]]:
    """Returns our processes, and findings about those whose settings could not be read."""
    found, wrong = [], []
    for pod in pods(objects):
        for item in pod.containers():
            words = expanded([*item.get("command", []), *item.get("args", [])], environment(item, objects))
            try:
                if config := _config(pod, item, words, objects):
                    found.append(Process(pod, item, words, config))
            except (SettingsError, KeyError, StopIteration) as error:
                wrong.append(f"{pod.where} {item['name']}: {error}")
    return found, wrong


def of_kind(found: list[Process], kind: type[Kind]) -> list[tuple[Process, Kind]]:
    """Yields the processes of a kind with their settings."""
    return [(process, process.config) for process in found if isinstance(process.config, kind)]


def environment(container: Object, objects: list[Object]) -> dict[str, str]:
    """Environment of a container; values that only a running pod knows are replaced by plausible ones."""
    maps, values = (
        named(objects, "ConfigMap"),
        {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "l"},
    )
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "value" in variable:
            values[variable["name"]] = variable["value"]
        elif "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            values[variable["name"]] = maps.get(reference["name"], {}).get("data", {}).get(reference["key"], "")
        elif "fieldRef" in source:
            path = source["fieldRef"]["fieldPath"]
            values[variable["name"]] = (_FIELDS | _of_run(objects))[path]
    return values


def _of_run(objects: list[Object]) -> dict[str, str]:
    """Returns the fields that all pods of a run have in common."""
    found = pods(objects)
    return {
        "metadata.namespace": found[0].owner["metadata"]["namespace"],
        "metadata.labels['leeway.dev/run']": found[0].labels.get("leeway.dev/run", ""),
    }


def _config(pod: Pod, container: Object, words: list[str], objects: list[Object]) -> Config | None:
    module = next((name for flag, name in pairwise(words) if flag == "-m" and name in CLASSES), None)
    file = next((Path(word) for word in words if word.endswith(".toml")), None)
    if module is None or file is None:
        return None
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, file.name)
        copy.write_text(mounted(pod, container, file, objects))
        return CLASSES[module].load(copy, overrides)


def mounted(pod: Pod, container: Object, path: Path, objects: list[Object]) -> str:
    """Content of a file that a container has from a ConfigMap or a rendered Secret. Raises KeyError."""
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for mount in container["volumeMounts"]:
        if not path.is_relative_to(mount["mountPath"]):
            continue
        volume = volumes[mount["name"]]
        key = mount.get("subPath") or str(path.relative_to(mount["mountPath"]))
        if "configMap" in volume:
            return named(objects, "ConfigMap")[volume["configMap"]["name"]]["data"][key]
        content = named(objects, "Secret")[volume["secret"]["secretName"]]["data"]
        keys = {item["path"]: item["key"] for item in volume["secret"].get("items", [])}
        return base64.b64decode(content[keys.get(key, key)]).decode()
    raise KeyError(f"{path} is mounted nowhere")

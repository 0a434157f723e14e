"""Policy on images, and on the resources that a container takes from its node."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.deploy.manifests import Object
from tests.deploy.workloads import pods, quantity

_BOUNDED = ("cpu", "memory", "ephemeral-storage")
_GPU = "nvidia.com/gpu"
_IMAGE = re.compile(r"([a-z0-9.-]+:\d+/)?[a-z0-9._/-]+(:(?P<tag>[A-Za-z0-9._-]+))?(@sha256:(?P<digest>[0-9a-f]{64}))?")


def images(objects: list[Object]) -> list[str]:
    """Checks that every image has a version: a tag that does not move, or a digest."""
    wrong = []
    for pod in pods(objects):
        for item in pod.everything():
            match = _IMAGE.fullmatch(item["image"])
            fixed = match and (match["digest"] or any(letter.isdigit() for letter in match["tag"] or ""))
            if not fixed:
                wrong.append(f"{pod.where} {item['name']}: image {item['image']} has no version")
    return wrong


def resources(objects: list[Object]) -> list[str]:
    """Checks requests and limits of all that can run out, and that pods with GPUs tolerate the taint of GPU nodes."""
    return (
        [
            f"{pod.where} {item['name']}: {problem}"
            for pod in pods(objects)
            for item in pod.everything()
            for problem in _resources(item.get("resources", {}))
        ]
        + [
            f"{pod.where}: wants GPUs and does not tolerate the taint of their nodes"
            for pod in pods(objects)
            if any(_GPU in item["resources"].get("limits", {}) for item in pod.containers())
            and not any(taint["key"] == _GPU for taint in pod.spec.get("tolerations", []))
        ]
        + [
            f"{pod.where}: volume {volume['name']} has no sizeLimit"
            for pod in pods(objects)
            for volume in pod.spec.get("volumes", [])
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]
        ]
    )


def _resources(given: Object) -> Iterator[str]:
    requests, limits = given.get("requests", {}), given.get("limits", {})
    for name in _BOUNDED:
        if name not in requests or name not in limits:
            yield f"no request or no limit of {name}"
        elif quantity(requests[name]) > quantity(limits[name]):
            yield f"requests {requests[name]} of {name}, above its limit {limits[name]}"
    if requests.get(_GPU) != limits.get(_GPU):
        yield f"requests {requests.get(_GPU)} GPUs with a limit of {limits.get(_GPU)}"

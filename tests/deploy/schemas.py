"""Checks rendered objects against schemas: Kubernetes' own for three versions, and ours for the operators' kinds.

``crds/KIND.json`` holds the fields of a custom kind as its CRD has them; a field that is not there is refused. Pods and
jobs inside custom kinds are checked as what they are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils as validator

from tests.deploy.manifests import Object

VERSIONS = ("1.32", "1.34", "1.37")
# It reads megabytes of JSON again for each object: fifteen times the work.
validator.schema_contents = functools.cache(validator.schema_contents)
_SCHEMAS = Path(__file__).parent / "crds"


def violations(objects: list[Object], version: str) -> list[str]:
    """Violations of the schemas of a Kubernetes version, one line each."""
    return [f"{_name(item)} ({version}): {problem}" for item in objects for problem in _check(item, version)]


def _check(item: Object, version: str) -> Iterator[str]:
    if not (_SCHEMAS / f"{item['kind']}.json").is_file():
        yield from _native(item, version)
        return
    problems = list(_validator(item["kind"]).iter_errors(item))
    yield from (f"{'.'.join(map(str, problem.absolute_path))}: {problem.message}" for problem in problems)
    if not problems:
        for inside in _inside(item):
            yield from _native(inside, version)


def _native(item: Object, version: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message


def _inside(item: Object) -> Iterator[Object]:
    """Yields the native objects inside a custom one."""
    if item["kind"] == "JobSet":
        for job in item["spec"]["replicatedJobs"]:
            yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
    if item["kind"] == "LeaderWorkerSet":
        for role in ("leaderTemplate", "workerTemplate"):
            if role in item["spec"]["leaderWorkerTemplate"]:
                template = item["spec"]["leaderWorkerTemplate"][role]
                yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((_SCHEMAS / f"{kind}.json").read_text()))


def _name(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"

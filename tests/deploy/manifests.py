"""`python -m tests.deploy.manifests`: builds and validates every overlay and checks the policies; exits 1 with findings.

Needs kubectl (for its kustomize); without it, says so and exits 0.
"""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.tools.refuse import missing

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = {path.name: path for path in sorted((KUBERNETES / "overlays").iterdir())}
# Compositions that no overlay shows: a Redis that runs elsewhere.
VARIANTS = {path.name: path for path in sorted((Path(__file__).parent / "variants").iterdir())}
ALL = {**OVERLAYS, **VARIANTS}
MISSING = missing("kubectl")
_TIMEOUT_S = 60

Object = dict[str, Any]


class BuildError(Exception):
    """A directory that kustomize refused; the message is kustomize's own."""


def build(directory: Path) -> list[Object]:
    """Builds a kustomization and returns its objects. Raises BuildError."""
    command = ["kubectl", "kustomize", str(directory)]
    if not directory.is_relative_to(KUBERNETES):  # a variant's files are an overlay's
        command.append("--load-restrictor=LoadRestrictionsNone")
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise BuildError(f"{directory.name}: {done.stderr.strip()}")
    return [item for item in yaml.load_all(done.stdout, yaml.CSafeLoader) if item]


def render(name: str) -> list[Object]:
    """All objects that a run of this overlay or variant needs: the cluster's, its namespace and volumes, its own."""
    return render_kept(name) + render_run(name)


def render_run(name: str) -> list[Object]:
    """Objects that are applied and deleted with a run, built once per process; each caller gets its own copy."""
    return copy.deepcopy(_built(ALL[name]))


def render_kept(name: str) -> list[Object]:
    """Objects that are applied before a run and stay when it is deleted."""
    queued = any(item["kind"] == "LocalQueue" for item in _built(ALL[name]))
    kept = [KUBERNETES / "cluster", *([KUBERNETES / "cluster" / "kueue"] if queued else []), ALL[name] / "storage"]
    return copy.deepcopy([item for directory in kept for item in _built(directory)])


@functools.cache
def _built(directory: Path) -> list[Object]:
    return build(directory)


def main() -> int:
    """Prints a line per overlay and every finding; returns the exit status."""
    from tests.deploy.policies.registry import findings, findings_of_run
    from tests.deploy.schemas import VERSIONS, violations

    if MISSING:
        print(f"manifests: {MISSING}, skipped")
        return 0
    wrong = 0
    for name in ALL:
        objects = render(name)
        found = [line for version in VERSIONS for line in violations(objects, version)] + findings(objects)
        found += findings_of_run(render_run(name))
        print(f"{name}: {len(objects)} objects, Kubernetes {', '.join(VERSIONS)}: {len(found)} findings")
        for line in found:
            print(f"  {line}")
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

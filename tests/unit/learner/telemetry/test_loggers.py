"""Loggers: files that can be read back, optional packages faked at their edge, failures that do not end a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from learner.telemetry.loggers import Loggers
from learner.telemetry.metrics_writer import MetricsWriter
from runtime.settings import SettingsError


class WandbError(Exception):
    pass


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The part of wandb's interface that is used, recording."""
    seen = SimpleNamespace(init={}, rows=[], finished=0, failing=False)

    def init(**options: Any) -> Any:
        if seen.failing:
            raise WandbError("no API key")
        seen.init = options
        return SimpleNamespace(log=log, finish=finish)

    def log(values: dict[str, float], step: int) -> None:
        if len(seen.rows) == 2:
            raise WandbError("the service has gone")
        seen.rows.append((step, values))

    def finish() -> None:
        seen.finished += 1

    module = ModuleType("wandb")
    vars(module).update(init=init, Error=WandbError, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    seen = SimpleNamespace(runs=[], rows=[], ended=0, experiment=None)

    def start_run(run_id: str | None, run_name: str) -> Any:
        seen.runs.append((run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    def log_metrics(values: dict[str, float], step: int, synchronous: bool) -> None:
        seen.rows.append((step, values, synchronous))

    def end_run() -> None:
        seen.ended += 1

    module = ModuleType("mlflow")
    vars(module).update(
        start_run=start_run, log_metrics=log_metrics, end_run=end_run, MlflowException=RuntimeError,
        set_experiment=lambda name: setattr(seen, "experiment", name),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return seen


def test_weights_and_biases_goes_on_in_the_same_run(wandb: SimpleNamespace, tmp_path: Path):
    loggers = Loggers(["wandb"], tmp_path, "run-1")
    loggers.log(5, {"reward": 0.5})
    loggers.close()
    assert wandb.init["id"] == "run-1"
    assert wandb.init["resume"] == "allow"
    assert wandb.rows == [(5, {"train/reward": 0.5})]
    assert wandb.finished == 1


def test_a_logger_that_fails_is_dropped_and_the_others_go_on(
    wandb: SimpleNamespace, mlflow: SimpleNamespace, tmp_path: Path
):
    loggers = Loggers(["wandb", "mlflow"], tmp_path, "run-1")
    for step in range(5):
        loggers.log(step, {"reward": 0.5})
    loggers.close()
    assert len(wandb.rows) == 2
    assert wandb.finished == 0
    assert [step for step, _, _ in mlflow.rows] == [0, 1, 2, 3, 4]
    assert not any(synchronous for _, _, synchronous in mlflow.rows)
    assert mlflow.ended == 1


def test_mlflow_goes_on_in_the_same_run_after_a_resume(mlflow: SimpleNamespace, tmp_path: Path):
    Loggers(["mlflow"], tmp_path, "run-1").close()
    Loggers(["mlflow"], tmp_path, "run-1").close()
    assert mlflow.runs == [(None, "run-1"), ("abc", "run-1")]
    assert mlflow.experiment == "leeway"


def test_a_service_that_refuses_us_is_a_mistake_in_the_configuration(wandb: SimpleNamespace, tmp_path: Path):
    wandb.failing = True
    with pytest.raises(SettingsError, match=r'loggers = \["wandb"\]: no API key; set WANDB_MODE=offline'):
        Loggers(["wandb"], tmp_path, "run-1")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, name, None)  # what import makes of a package that is not there
    with pytest.raises(
        SettingsError, match=rf'loggers = \["{name}"\]: the package is not installed .* pip install {name}'
    ):
        Loggers([name], tmp_path, "run-1")


def test_json_lines_have_every_field_and_loggers_the_numbers(wandb: SimpleNamespace, tmp_path: Path):
    metrics = MetricsWriter(tmp_path, ["tensorboard", "wandb"], "run-1")
    row = {"step": 3, "reward": 0.5, "rho": None, "lr_active": "none", "grad_norm": float("inf")}
    metrics.step(row)
    metrics.event("alarm", step=3, rule="rho")
    metrics.close()
    rows = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "learner.jsonl").read_text().splitlines()
    ]
    assert [item["kind"] for item in rows] == ["step", "alarm"]
    assert {name: rows[0][name] for name in row} == {**row, "grad_norm": None}
    assert wandb.rows[0][0] == 3
    assert wandb.rows[0][1].keys() == {"train/reward", "train/grad_norm"}
    assert list((tmp_path / "tensorboard").iterdir())

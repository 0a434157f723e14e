"""Experiment loggers with the real client libraries, offline: what they have written is read back."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

from learner.telemetry.loggers import Loggers
from learner.telemetry.metrics_writer import MetricsWriter
from runtime.settings import SettingsError

ROW = {
    "step": 3, "reward": 0.5, "rho": None, "lr_active": "none", "grad_norm": float("inf"), "finite": True,
    "length": {"mean": 8.5, "p95": 12.0}, "length_negative": None,
    "lr_ceiling_share": 0.25, "drift_measured": 0.03125, "drift_scale": 75.0, "drift_predicted": 0.375, "ess_share": 0.875,
    "gradient_cosine": -0.125,
    "tasks": {"gsm8k": {"groups": 4, "parts": {"exact": 0.25}}, "a/b (x)": {"groups": 1, "parts": {}}},
}  # fmt: skip
NUMBERS = {
    "train/reward": 0.5, "train/grad_norm": float("inf"), "train/finite": 1.0, "train/length/mean": 8.5,
    "train/length/p95": 12.0, "train/tasks/gsm8k/groups": 4.0, "train/tasks/gsm8k/parts/exact": 0.25,
    "train/tasks/a_b _x_/groups": 1.0,
    "train/lr_ceiling_share": 0.25, "train/drift_measured": 0.03125, "train/drift_scale": 75.0,
    "train/drift_predicted": 0.375, "train/ess_share": 0.875, "train/gradient_cosine": -0.125,
}  # fmt: skip
SETTINGS = {"optimizer": {"lr": 1e-6}, "queue": {"url": "redis://:hunter2@host/0"}, **{f"x{n}": n for n in range(250)}}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_PROJECT", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}.items():
        monkeypatch.setenv(name, value)


def tensorboard_events(directory: Path) -> list[Any]:
    """Reads the event files: records of length, its checksum, content, its checksum."""
    events = []
    for path in sorted((directory / "tensorboard").iterdir()):
        data, offset = path.read_bytes(), 0
        while offset < len(data):
            (size,) = struct.unpack_from("<Q", data, offset)
            events.append(Event.FromString(data[offset + 12 : offset + 12 + size]))
            offset += size + 16
    return events


def wandb_records(directory: Path) -> list[Any]:
    """Reads the file of an offline run, which W&B's service may still be writing when its client has ended: waits for it."""
    deadline = time.monotonic() + 60
    while True:
        records = [record for path in directory.glob("wandb/offline-run-*/*.wandb") for record in leveldb_log(path)]
        if records and records[-1].HasField("exit"):
            return records
        assert time.monotonic() < deadline


def leveldb_log(path: Path) -> Iterator[Any]:
    """Reads a head of 7 bytes, then blocks of 32 KiB with records in LevelDB's log format; stops where one is not whole."""
    data, offset, parts = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + 7 : offset + 7 + size]
        offset += 7 + size
        if offset > len(data):
            return
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def wandb_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of history of offline runs; W&B's own fields left out."""
    rows = []
    for record in wandb_records(directory):
        if record.HasField("history"):
            items = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            rows.append({name: value for name, value in items.items() if not name.startswith("_") or name == "_step"})
    return rows


def mlflow_client(address: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=address.as_uri())


def write(directory: Path, *names: str) -> None:
    writer = MetricsWriter(directory, names, "run-1", settings=SETTINGS)
    writer.step(ROW)
    writer.event("alarm", step=3, rule="rho")
    writer.close()


def test_tensorboard_files_have_every_number_under_its_name_and_the_settings(tmp_path: Path):
    write(tmp_path, "tensorboard")
    values = [(event.step, value) for event in tensorboard_events(tmp_path) for value in event.summary.value]
    scalars = {value.tag: (step, value.simple_value) for step, value in values if value.HasField("simple_value")}
    assert scalars == {name.replace(" ", "_"): (3, number) for name, number in NUMBERS.items()}
    (text,) = [value.tensor.string_val[0].decode() for _, value in values if value.tag.startswith("config")]
    assert '"optimizer/lr": "1e-06"' in text
    assert "hunter2" not in text


def test_weights_and_biases_has_every_number_under_its_name_and_the_settings(tmp_path: Path):
    write(tmp_path, "wandb")
    (row,) = wandb_rows(tmp_path)
    assert row == {**NUMBERS, "_step": 3, "train/grad_norm": "Infinity"} or row == {**NUMBERS, "_step": 3}
    runs = [record.run for record in wandb_records(tmp_path) if record.HasField("run")]
    assert {(run.run_id, run.display_name, run.project) for run in runs} == {("run-1", "run-1", "leeway")}
    config = {one.key: json.loads(one.value_json) for one in runs[0].config.update}
    assert (config["optimizer/lr"], config["queue/url"]) == ("1e-06", "redis://***@host/0")


def test_weights_and_biases_goes_where_its_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    write(tmp_path / "run", "wandb")
    runs = [record.run for record in wandb_records(tmp_path / "elsewhere") if record.HasField("run")]
    assert {run.project for run in runs} == {"mine"}


def test_mlflow_has_every_number_under_its_name_and_goes_on_in_the_same_run_after_a_resume(tmp_path: Path):
    write(tmp_path, "mlflow")
    again = MetricsWriter(
        tmp_path, ["mlflow"], "run-1", settings={"optimizer": {"lr": 2.0}}
    )  # a parameter never changes
    again.step({"step": 4, "reward": 0.75})
    again.close()
    client = mlflow_client(tmp_path / "mlruns")
    (experiment,) = [one for one in client.search_experiments() if one.name == "leeway"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run-1"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {**NUMBERS, "train/reward": 0.75}
    history = client.get_metric_history(run.info.run_id, "train/reward")
    assert [(one.step, one.value) for one in history] == [(3, 0.5), (4, 0.75)]
    assert (run.data.params["optimizer/lr"], run.data.params["queue/url"]) == ("1e-06", "redis://***@host/0")
    assert len(run.data.params) == 252


def test_mlflow_goes_where_its_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    write(tmp_path, "mlflow")
    client = mlflow_client(tmp_path / "elsewhere")
    (experiment,) = [one for one in client.search_experiments() if one.name == "mine"]
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert not (tmp_path / "mlruns").exists()


def test_a_logger_that_fails_is_dropped_counted_and_the_others_go_on(tmp_path: Path):
    """MLflow's store is gone in the middle of the run; what the library then raises is a bare Exception."""
    writer = MetricsWriter(tmp_path, ["mlflow", "tensorboard"], "run-1")
    (tmp_path / "mlruns").rename(tmp_path / "gone")
    (tmp_path / "mlruns").touch()
    writer.step(ROW)
    writer.step({**ROW, "step": 4})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "learner.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "step"] == [3, 4]
    (dropped,) = [row for row in rows if row["kind"] == "logger_dropped"]
    assert dropped["logger"] == "mlflow"
    assert dropped["reason"]
    steps = {event.step for event in tensorboard_events(tmp_path) if event.summary.value}
    assert {3, 4} <= steps


def test_a_service_that_refuses_us_is_a_mistake_in_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class WandbError(Exception):
        pass

    def init(**options: Any) -> Any:
        raise WandbError("no API key")

    module = ModuleType("wandb")
    vars(module).update(init=init, Error=WandbError, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(SettingsError, match=r'loggers = \["wandb"\]: no API key; set WANDB_MODE=offline'):
        Loggers(["wandb"], tmp_path, "run-1")


def test_an_mlflow_address_that_cannot_be_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://host")
    with pytest.raises(SettingsError, match=r'loggers = \["mlflow"\]: .*check MLFLOW_TRACKING_URI'):
        Loggers(["mlflow"], tmp_path, "run-1")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, name, None)  # what import makes of a package that is not there
    with pytest.raises(
        SettingsError, match=rf'loggers = \["{name}"\]: the package is not installed .* pip install {name}'
    ):
        Loggers([name], tmp_path, "run-1")


def test_json_lines_have_every_field_and_no_number_that_json_lacks(tmp_path: Path):
    writer = MetricsWriter(tmp_path, [], "run-1")
    writer.step({**ROW, "tasks": {"add": {"reward": float("nan"), "parts": {"x": float("-inf")}}}})
    writer.close()
    (row,) = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "learner.jsonl").read_text().splitlines()
    ]
    assert (row["kind"], row["grad_norm"], row["lr_active"], row["length"]["p95"]) == ("step", None, "none", 12.0)
    assert row["tasks"] == {"add": {"reward": None, "parts": {"x": None}}}

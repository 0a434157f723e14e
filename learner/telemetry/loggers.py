"""Sends the numbers of steps to experiment loggers: TensorBoard, Weights & Biases, MLflow. Used on rank 0 only.

The last two are optional packages, imported only if they are configured. Where they log to is said by their own environment
variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_DIR and so on; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. A logger
that fails is dropped with a warning, and training goes on.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from tensorboardX import SummaryWriter

from learner.telemetry.log_sender import Logger, LogSender, SendError
from runtime.settings import SettingsError

_PROJECT = "leeway"
_START_S = 60  # a server that has not answered by then is given up
_BATCH = 100  # parameters, and metrics, that MLflow takes in one request
_LONGEST = 6000  # characters that MLflow keeps of a parameter

Settings = Mapping[str, str]  # of the run, flat, without credentials


class TensorBoard:
    """Writes event files into ``directory``/tensorboard."""

    def __init__(self, directory: Path, run: str, settings: Settings) -> None:
        self._writer = SummaryWriter(str(directory / "tensorboard"), flush_secs=10)
        if settings:
            self._writer.add_text("config", f"```json\n{json.dumps(dict(settings), indent=2)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Logs to a run whose id is the run's name: a learner that resumes continues that run.

    The project is WANDB_PROJECT, or "leeway"; the files are in WANDB_DIR, or in ``directory``. The service takes every step
    once: a step that is trained again after a resume from an older checkpoint keeps its first numbers.
    """

    def __init__(self, directory: Path, run: str, settings: Settings) -> None:
        wandb = _package("wandb")
        asked = os.environ.get
        try:
            self._run = wandb.init(
                project=asked("WANDB_PROJECT", _PROJECT),
                id=asked("WANDB_RUN_ID", run),
                name=asked("WANDB_NAME", run),
                dir=asked("WANDB_DIR", str(directory)),
                resume=asked("WANDB_RESUME", "allow"),
                config=dict(settings),
                allow_val_change=True,
                settings=wandb.Settings(init_timeout=_START_S),
            )
        except (wandb.Error, OSError) as error:
            raise SettingsError(f'loggers = ["wandb"]: {error}; set WANDB_MODE=offline, or remove it') from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Logs to a run of experiment MLFLOW_EXPERIMENT_NAME, or "leeway", at MLFLOW_TRACKING_URI.

    Without that address, files go into ``directory``/mlruns. ``directory`` keeps the run's id, for a learner that resumes.
    """

    def __init__(self, directory: Path, run: str, settings: Settings) -> None:
        mlflow = _package("mlflow")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases refuse files otherwise
        address = os.environ.get("MLFLOW_TRACKING_URI") or (directory / "mlruns").resolve().as_uri()
        self._metric = mlflow.entities.Metric
        known = directory / "mlflow.run"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=address)
            if known.is_file():
                self._run = known.read_text()
                self._client.update_run(self._run, status="RUNNING")
                return
            self._run = self._client.create_run(self._experiment(), run_name=run).info.run_id
            parameters = [mlflow.entities.Param(name, text[:_LONGEST]) for name, text in settings.items()]
            for some in _pieces(parameters):
                self._client.log_batch(self._run, params=some)
        except (mlflow.MlflowException, OSError) as error:
            raise SettingsError(f'loggers = ["mlflow"]: {error}; check MLFLOW_TRACKING_URI, or remove it') from error
        known.write_text(self._run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(f"train/{name}", value, now, step) for name, value in values.items()]
        for some in _pieces(metrics):
            self._client.log_batch(self._run, metrics=some)

    def close(self) -> None:
        self._client.set_terminated(self._run)

    def _experiment(self) -> str:
        if (number := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)


_KINDS: dict[str, Callable[[Path, str, Settings], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Loggers:
    """All configured experiment loggers.

    Args:
        names: as in ``LearnerConfig.loggers``.
        directory: where loggers keep files.
        run: the run's name.
        settings: of the run, to be shown with it.
        dropped: called with the name of a logger that is given up, and why.

    Raises:
        SettingsError: one is not installed or cannot be started.
    """

    def __init__(
        self,
        names: Sequence[str],
        directory: Path,
        run: str,
        settings: Settings | None = None,
        dropped: Callable[[str, str], None] = lambda name, reason: None,
    ) -> None:
        self._dropped = dropped
        self._senders = {name: LogSender(name, _KINDS[name](directory, run, settings or {})) for name in names}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of one optimizer step to every logger, in the background."""
        self._each(lambda sender: sender.log(step, values))

    def close(self) -> None:
        """Closes every logger, each within half a minute."""
        self._each(lambda sender: sender.close())

    def _each(self, call: Callable[[LogSender], None]) -> None:
        """Calls ``call`` with each sender, and drops those that fail."""
        for name, sender in list(self._senders.items()):
            try:
                call(sender)
            except SendError as error:
                structlog.get_logger().warning("logger dropped", logger=name, error=str(error))
                del self._senders[name]
                self._dropped(name, str(error))


def _pieces(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]


def _package(name: str) -> ModuleType:
    """Imports an optional package. Raises SettingsError, naming it, if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f'loggers = ["{name}"]: the package is not installed where the learner runs: pip install {name}, or remove it '
            f"({error})"
        ) from error

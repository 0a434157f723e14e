"""Sends the numbers of steps to experiment loggers: TensorBoard, Weights & Biases, MLflow. Used on rank 0 only.

The last two are optional packages, imported only if they are configured. Both send in the background, so that a slow server
does not delay a step; a logger that fails is dropped with a warning, and training goes on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import structlog
from tensorboardX import SummaryWriter

from runtime.settings import SettingsError

_PROJECT = "leeway"
_START_S = 60  # a server that has not answered by then is given up


class Logger(Protocol):
    """One experiment logger, whichever service is behind it."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """Exceptions that its service raises when it fails."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of one optimizer step."""
        ...

    def close(self) -> None:
        """Sends what has not been sent yet, and ends the logger."""
        ...


class TensorBoard:
    """Writes event files into ``directory``/tensorboard."""

    failures = (OSError,)

    def __init__(self, directory: Path, run: str) -> None:
        self._writer = SummaryWriter(str(directory / "tensorboard"), flush_secs=10)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Logs to a run of project "leeway" whose id is the run's name: a learner that resumes continues that run.

    The service takes every step once: a step that is trained again after a resume from an older checkpoint keeps its first
    numbers.
    """

    def __init__(self, directory: Path, run: str) -> None:
        wandb = _package("wandb")
        self.failures = (wandb.Error, OSError)
        settings = wandb.Settings(init_timeout=_START_S)
        try:
            self._run = wandb.init(
                project=_PROJECT, id=run, name=run, dir=str(directory), resume="allow", settings=settings
            )
        except self.failures as error:
            raise SettingsError(f'loggers = ["wandb"]: {error}; set WANDB_MODE=offline, or remove it') from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Logs to a run of experiment "leeway" at MLFLOW_TRACKING_URI; ``directory`` keeps its id, for a learner that resumes."""

    def __init__(self, directory: Path, run: str) -> None:
        self._mlflow = _package("mlflow")
        self.failures = (self._mlflow.MlflowException, OSError)
        known = directory / "mlflow.run"
        try:
            self._mlflow.set_experiment(_PROJECT)
            started = self._mlflow.start_run(run_id=known.read_text() if known.is_file() else None, run_name=run)
        except self.failures as error:
            raise SettingsError(f'loggers = ["mlflow"]: {error}; check MLFLOW_TRACKING_URI, or remove it') from error
        known.write_text(started.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({f"train/{name}": value for name, value in values.items()}, step, synchronous=False)

    def close(self) -> None:
        self._mlflow.end_run()


_KINDS: dict[str, Callable[[Path, str], Logger]] = {
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

    Raises:
        SettingsError: one is not installed or cannot be started.
    """

    def __init__(self, names: Sequence[str], directory: Path, run: str) -> None:
        self._loggers = {name: _KINDS[name](directory, run) for name in names}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of one optimizer step to every logger."""
        self._each(lambda logger: logger.log(step, values))

    def close(self) -> None:
        """Closes every logger."""
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        """Calls ``call`` with each logger, and drops those that fail."""
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except logger.failures as error:
                structlog.get_logger().warning("logger dropped", logger=name, error=str(error))
                del self._loggers[name]


def _package(name: str) -> ModuleType:
    """Imports an optional package. Raises SettingsError, naming it, if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f'loggers = ["{name}"]: the package is not installed where the learner runs: pip install {name}, or remove it '
            f"({error})"
        ) from error

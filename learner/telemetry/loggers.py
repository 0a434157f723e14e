"""Where the numbers of steps go besides our own files: TensorBoard, Weights & Biases, MLflow. Used on rank 0 only.

The last two are optional packages, imported only when they are asked for. Both send in the background, so that a slow server
does not hold up a step; one that fails is dropped with a warning, and training goes on.
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
_START_S = 60  # a server that does not answer for so long is as good as none


class Logger(Protocol):
    """Takes the numbers of steps."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What its service raises when it fails."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``directory``/tensorboard."""

    failures = (OSError,)

    def __init__(self, directory: Path, run: str) -> None:
        self._writer = SummaryWriter(str(directory / "tensorboard"), flush_secs=10)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of project "leeway" whose id is the run's name: a learner that resumes goes on in it.

    The service takes every step once: what is trained again after a resume from an older checkpoint stays as it was.
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
    """A run of experiment "leeway" at MLFLOW_TRACKING_URI; its id is kept in ``directory``, to go on in it after a resume."""

    def __init__(self, directory: Path, run: str) -> None:
        self._mlflow = _package("mlflow")
        self.failures = (self._mlflow.MlflowException, OSError)
        known = directory / "mlflow.run"
        try:
            self._mlflow.set_experiment(_PROJECT)
            started = self._mlflow.start_run(run_id=known.read_text() if known.is_file() else None, run_name=run)
        except self.failures as error:
            raise SettingsError(f'loggers = ["mlflow"]: {error}; see to MLFLOW_TRACKING_URI, or remove it') from error
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
    """Those that are configured.

    Args:
        names: of ``LearnerConfig.loggers``.
        directory: what they keep on disk goes here.
        run: the run's name.

    Raises:
        SettingsError: one is not installed or cannot be started.
    """

    def __init__(self, names: Sequence[str], directory: Path, run: str) -> None:
        self._loggers = {name: _KINDS[name](directory, run) for name in names}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends a step's numbers everywhere."""
        self._each(lambda logger: logger.log(step, values))

    def close(self) -> None:
        """Sends what is left."""
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except logger.failures as error:
                structlog.get_logger().warning("logger dropped", logger=name, error=str(error))
                del self._loggers[name]


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f'loggers = ["{name}"]: the package is not installed where the learner runs: pip install {name}, or remove it '
            f"({error})"
        ) from error

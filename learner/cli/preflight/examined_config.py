"""Reads what `leeway doctor` is to examine: a run file, or the settings file of one process as containers use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.sections import EMBEDDED
from learner.config import GatewayConfig, LearnerConfig, QueueConfig
from rollout.config import TaskConfig, WorkerConfig
from runtime.settings import SettingsError, read_mapping

Kind = Literal["run", "gateway", "learner", "worker"]
# Keys by which a process's file is recognized. More than one each: a key that differs between pods may come by --set alone.
_DISTINCTIVE_KEYS: dict[Kind, set[str]] = {
    "gateway": {"identities_file", "limits", "admission"},
    "learner": {"publish", "checkpoint", "steps"},
    "worker": {"engine", "sampling", "task", "log_dir", "gateway"},
}


@dataclass(frozen=True)
class ExaminedConfig:
    """The settings of every process that CONFIG describes.

    Attributes:
        kind: what CONFIG is: a run file, or the file of a gateway, learner or worker.
        gateway: the gateway's settings; None when CONFIG does not describe one.
        learner: the learner's settings; None when CONFIG does not describe one.
        workers: the workers' settings; empty when CONFIG does not describe any.
        run: the run's directory; None unless CONFIG is a run file.
        demo_model: name of the model that `leeway up` will make, so that it does not exist yet; empty if it is there.
        world: number of learner ranks on this machine; None when CONFIG does not say.
        embedded: whether `leeway up` will start the Redis itself.
        weights: the URI at which a worker's machine sees the published versions; None when it was not given.
        evaluated: the tasks that are evaluated, besides those that the workers ask.
    """

    kind: Kind
    gateway: GatewayConfig | None = None
    learner: LearnerConfig | None = None
    workers: tuple[WorkerConfig, ...] = ()
    run: RunDirectory | None = None
    demo_model: str = ""
    world: int | None = None
    embedded: bool = False
    weights: str | None = None
    evaluated: tuple[TaskConfig, ...] = ()

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = (), weights: str | None = None) -> ExaminedConfig:
        """Reads a file, or the run.json of a run's directory, and finds out what kind it is.

        Args:
            path: CONFIG, as the user named it.
            overrides: changes of single settings, as ``section.key=value``.
            weights: the attribute of that name.

        Raises:
            SettingsError: no process would accept the file, or its kind is not recognized.
        """
        overrides = list(overrides)
        if path.is_dir():
            return cls.of_run(RunFile.read(path, overrides), weights)
        values = read_mapping(path)
        if "run" in values and isinstance(values["run"], dict):
            return cls.of_run(RunFile.read(path, overrides), weights)
        kind = next((kind for kind, keys in _DISTINCTIVE_KEYS.items() if keys & values.keys()), None)
        match kind:
            case "gateway":
                return cls("gateway", gateway=GatewayConfig.load(path, overrides), weights=weights)
            case "learner":
                return cls("learner", learner=LearnerConfig.load(path, overrides), weights=weights)
            case "worker":
                return cls("worker", workers=(WorkerConfig.load(path, overrides),), weights=weights)
        raise SettingsError(
            f"{path}: neither a run file ([run], [model], ...) nor the file of a gateway ([limits]), a learner ([publish]) "
            "or a worker ([engine])"
        )

    @classmethod
    def of_run(cls, run_file: RunFile, weights: str | None = None) -> ExaminedConfig:
        """The settings of every process of a run. Raises SettingsError."""
        embedded = run_file.queue.url == EMBEDDED
        # `leeway up` will know the run's name in Redis and the vocabulary size; no check needs them.
        plan = run_file.resolve("redis://embedded" if embedded else run_file.queue.url, "doctor", 1)
        return cls(
            "run",
            plan.gateway,
            plan.learner,
            tuple(plan.workers),
            run_file.directory,
            run_file.demo_model,
            run_file.learner.world_size,
            embedded,
            weights,
            tuple(run_file.eval.task) if run_file.eval is not None else (),
        )

    @property
    def queue(self) -> QueueConfig | None:
        """Where Redis is; None when the process does not use it, or `leeway up` starts it."""
        owner = self.gateway or self.learner
        return None if owner is None or self.embedded else owner.queue

    @property
    def model(self) -> Path | None:
        """The initial policy's directory; None when the process has none, or `leeway up` makes it."""
        owner = self.learner or (self.workers[0] if self.workers else None)
        return None if owner is None or self.demo_model else owner.model

"""What the doctor looks at: a run file, or the file of one process as containers use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.sections import EMBEDDED
from learner.config import GatewayConfig, LearnerConfig, QueueConfig
from rollout.config import WorkerConfig
from runtime.settings import SettingsError, read_mapping

Kind = Literal["run", "gateway", "learner", "worker"]
# Sections that only one kind of process has; what differs between pods may come by --set alone.
_MARKS: dict[Kind, set[str]] = {
    "gateway": {"identities_file", "limits", "admission"},
    "learner": {"publish", "checkpoint", "steps"},
    "worker": {"engine", "sampling", "task", "log_dir", "gateway"},
}


@dataclass(frozen=True)
class Subject:
    """The settings of the processes that CONFIG is about; None, or empty, where it says nothing about one.

    Attributes:
        kind: what CONFIG is.
        run: the run's directory, of a run file.
        makes_model: the model does not exist yet, `leeway up` makes it.
        world: learner ranks on this machine, when CONFIG says how many.
        embedded: Redis is `leeway up`'s own.
        weights: where a worker's machine finds published versions, when that was given.
    """

    kind: Kind
    gateway: GatewayConfig | None = None
    learner: LearnerConfig | None = None
    workers: tuple[WorkerConfig, ...] = ()
    run: RunDirectory | None = None
    makes_model: bool = False
    world: int | None = None
    embedded: bool = False
    weights: str | None = None

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = (), weights: str | None = None) -> Subject:
        """Raises SettingsError for what no process would take."""
        overrides = list(overrides)
        if path.is_dir():
            return cls._of_run(RunFile.read(path, overrides), weights)
        values = read_mapping(path)
        if "run" in values and isinstance(values["run"], dict):
            return cls._of_run(RunFile.read(path, overrides), weights)
        kind = next((kind for kind, marks in _MARKS.items() if marks & values.keys()), None)
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
    def _of_run(cls, run_file: RunFile, weights: str | None) -> Subject:
        embedded = run_file.queue.url == EMBEDDED
        # Names and numbers that `leeway up` will know and that no check needs: vocabulary, the run's name in Redis.
        plan = run_file.resolve("redis://embedded" if embedded else run_file.queue.url, "doctor", 1)
        return cls(
            "run",
            plan.gateway,
            plan.learner,
            tuple(plan.workers),
            run_file.directory,
            run_file.makes_model,
            run_file.learner.world_size,
            embedded,
            weights,
        )

    @property
    def queue(self) -> QueueConfig | None:
        """Where Redis is; None when that is not this process's business, or `leeway up` starts it."""
        owner = self.gateway or self.learner
        return None if owner is None or self.embedded else owner.queue

    @property
    def model(self) -> Path | None:
        """The initial policy's directory, where it must exist already."""
        owner = self.learner or (self.workers[0] if self.workers else None)
        return None if owner is None or self.makes_model else owner.model

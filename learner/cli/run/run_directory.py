"""A run's directory: the paths in it, the lock that one `leeway up` has on it, and how an older run is moved away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MISCONFIGURED, LeewayError


class RunError(LeewayError):
    """A run cannot be started, resumed or read. The message is one line: what, where, and what to do."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, absolute, so that every process finds the same files."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> RunDirectory:
        """The run directory at ``path``, whether it exists or not."""
        return cls(path.absolute())

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """The run directory at ``path``. Raises RunError when no run was ever started there."""
        run = cls.at(path)
        if not run.settings.is_file():
            raise RunError(f"{path}: not a run directory (it has no run.json)")
        return run

    @property
    def shown(self) -> Path:
        """The directory as a user would type it: relative to the working directory if it is below that."""
        return self.root.relative_to(Path.cwd()) if self.root.is_relative_to(Path.cwd()) else self.root

    @property
    def settings(self) -> Path:
        """The run file with which the run was started, as JSON."""
        return self.root / "run.json"

    @property
    def config(self) -> Path:
        """The settings files of the run's processes. Closed to other users."""
        return self.root / "config"

    @property
    def redis(self) -> Path:
        """The data of the embedded Redis. Closed to other users."""
        return self.root / "redis"

    @property
    def identities(self) -> Path:
        """The fleets that the run's gateways know."""
        return self.root / "identities.json"

    @property
    def logs(self) -> Path:
        """The output of every process."""
        return self.root / "logs"

    @property
    def weights(self) -> Path:
        """The published versions."""
        return self.root / "weights"

    @property
    def checkpoints(self) -> Path:
        """The learner's checkpoints."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The JSON lines in which the learner and the workers record their metrics."""
        return self.root / "metrics"

    @property
    def rollouts(self) -> Path:
        """The groups that this machine's workers record as text."""
        return self.root / "rollouts"

    @property
    def state(self) -> Path:
        """What workers and the supervisor must remember across restarts."""
        return self.root / "state"

    @property
    def model(self) -> Path:
        """The demo's model, if this run made its own."""
        return self.root / "model"

    @property
    def demonstrations(self) -> Path:
        """The demonstrations of the supervised warm start."""
        return self.root / "demonstrations.jsonl"

    @property
    def summary(self) -> Path:
        """The run in numbers, written when `leeway up` ends."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The page that `leeway report` writes."""
        return self.root / "report.html"

    @property
    def processes(self) -> Path:
        """Name, process id and restarts of each supervised process, for `leeway status`."""
        return self.state / "processes.json"

    def secret(self, fleet: str) -> Path:
        """The file with the token of a fleet of this machine."""
        return self.root / "secrets" / f"{fleet}.token"

    def create(self) -> None:
        """Makes the directories; those with secrets in them are closed to other users."""
        for directory in (self.logs, self.weights, self.checkpoints, self.metrics, self.state):
            directory.mkdir(parents=True, exist_ok=True)
        for directory in (self.config, self.redis, self.root / "secrets"):
            directory.mkdir(mode=0o700, exist_ok=True)

    def identity(self, name: str) -> str:
        """Name of the run's keys in Redis, made once: ``name`` and a random suffix, unique on a shared server."""
        path = self.state / "identity"
        if not path.is_file():
            path.write_text(f"{name[:48]}-{secrets.token_hex(4)}\n")
        return path.read_text().strip()

    def set_aside(self) -> Path | None:
        """Renames an existing directory to ``<name>.<n>``; returns the new name, None when there was nothing."""
        if not self.root.exists():
            return None
        taken = (self.root.with_name(f"{self.root.name}.{number}") for number in range(1, 1_000_000))
        target = next(path for path in taken if not path.exists())
        self.root.rename(target)
        return target

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps every other `leeway up` out while the block runs. The kernel releases the lock when this process dies.

        Raises:
            RunError: another process has locked the run.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.root}: the run is in progress (process {file.read().strip()}); stop it first"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a `leeway up` runs here."""
        try:
            with (self.root / "lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except BlockingIOError:
            return True
        return False

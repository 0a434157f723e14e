"""A run's directory: where everything lies, who holds it, and how an older one is set aside."""

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
    """A run that cannot be started, resumed or read. One line: what, where, what to do."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. Absolute, so that every process finds the same files."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> RunDirectory:
        return cls(path.absolute())

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """Raises RunError when no run was ever started there."""
        run = cls.at(path)
        if not run.settings.is_file():
            raise RunError(f"{path}: not a run directory (it has no run.json)")
        return run

    @property
    def settings(self) -> Path:
        return self.root / "run.json"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def identities(self) -> Path:
        return self.root / "identities.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def weights(self) -> Path:
        return self.root / "weights"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def model(self) -> Path:
        """The demo's model, when this run made its own."""
        return self.root / "model"

    @property
    def demonstrations(self) -> Path:
        return self.root / "demonstrations.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def processes(self) -> Path:
        """What the supervisor last knew of its processes, for `leeway status`."""
        return self.state / "processes.json"

    def secret(self, fleet: str) -> Path:
        return self.root / "secrets" / f"{fleet}.token"

    def create(self) -> None:
        """Makes the directories; those that hold secrets are closed to other users."""
        for directory in (self.logs, self.weights, self.checkpoints, self.metrics, self.state):
            directory.mkdir(parents=True, exist_ok=True)
        for directory in (self.config, self.redis, self.root / "secrets"):
            directory.mkdir(mode=0o700, exist_ok=True)

    def identity(self, name: str) -> str:
        """The name of the run's keys in Redis: unlike any other run's, though the server may be shared."""
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
    def hold(self) -> Iterator[None]:
        """Keeps every other `leeway up` out while the block runs; the kernel lets go when we die.

        Raises:
            RunError: another process holds the run.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.root}: the run is going on (process {file.read().strip()}); stop it first"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def is_held(self) -> bool:
        """True while a `leeway up` runs here."""
        try:
            with (self.root / "lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

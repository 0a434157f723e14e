"""Where the run of a command is: its directory on this machine, or a gateway of it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.cli.run.run_directory import RunDirectory, RunError
from learner.gateway.operator_target import Target


@dataclass(frozen=True)
class RunPlace:
    """Where a run is.

    Attributes:
        path: its directory, as the user wrote it; None for a run elsewhere.
        target: a gateway of a run elsewhere.
    """

    path: Path | None = None
    target: Target | None = None

    @classmethod
    def at(cls, path: str) -> RunPlace:
        """The run in a directory of this machine."""
        return cls(path=Path(path))

    def directory(self) -> RunDirectory:
        """The run's directory. Raises RunError when no run was ever started there, or the run is elsewhere."""
        if self.path is None:
            raise RunError("this needs the run's directory, and with --gateway there is none")
        return RunDirectory.existing(self.path)

    def gateway(self) -> Target:
        """The gateway that takes changes: the one given, or that of the run in progress in the directory.

        Raises:
            RunError: there is no run, or it is not in progress, or it has no operator's token.
            SettingsError: run.json is damaged.
        """
        if self.target is not None:
            return self.target
        run = self.directory()
        if not run.is_locked():
            raise RunError(
                f"{self.path}: the run is not in progress, and no gateway takes the change: start it with leeway up "
                f"{self.path} --resume, where --set changes settings"
            )
        from learner.cli.run.own_gateway import own_gateway  # only now: settings take a while to import

        return own_gateway(run)

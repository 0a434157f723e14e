"""Finds the recorded groups of a run: which are wanted, which one an id means, which are new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from learner.cli.run.run_directory import RunDirectory, RunError
from runtime.rollout_files import RecordReader, all_records, last_records, rollout_files
from runtime.rollout_record import RecordedGroup

_SHORT = 8  # characters at the end of an id by which a group is called; the others are mostly its time


@dataclass(frozen=True)
class GroupFilter:
    """Which groups are wanted.

    Attributes:
        task: those of this task; None: of any.
        min_reward: those with a response that has at least this reward; None: any.
        unscored: those with a response that nobody judged, and those that were withdrawn.
    """

    task: str | None = None
    min_reward: float | None = None
    unscored: bool = False

    def wants(self, group: RecordedGroup) -> bool:
        """Whether a group is wanted."""
        if self.task is not None and group.task != self.task:
            return False
        if self.min_reward is not None and max(group.rewards, default=float("-inf")) < self.min_reward:
            return False
        return not self.unscored or bool(group.withdrawn) or len(group.rewards) < len(group.responses)


def rollouts_of(path: Path) -> Path:
    """Returns the directory of recorded groups that a path means: a run's directory, or the one with the files.

    The second is for fleets on machines of their own, where there is no run's directory.

    Raises:
        RunError: it is neither, or nothing is recorded there.
    """
    directory = path if rollout_files(path) else RunDirectory.at(path).rollouts
    if rollout_files(directory):
        return directory
    run = RunDirectory.at(path)
    if not run.settings.is_file() and not directory.is_dir():
        raise RunError(f"{path}: neither a run directory (it has no run.json) nor one with recorded groups")
    raise RunError(
        f"{directory}: no group is recorded yet; workers of this machine record some if rollout.record.enabled is true, "
        "those of other machines beside their own state_dir"
    )


def called(group: RecordedGroup) -> str:
    """The end of a group's id, by which `leeway rollouts show` finds it."""
    return group.group_id[-_SHORT:]


def found(directory: Path, name: str) -> RecordedGroup:
    """Returns the group with an id, or with an id that ends so.

    Raises:
        RunError: there is none, or several.
    """
    groups = {one.group_id: one for one in all_records(directory) if one.group_id.endswith(name)} if name else {}
    if not groups:
        raise RunError(f"no recorded group has the id {name!r}: `leeway rollouts tail` shows the newest ones")
    if name in groups:
        return groups[name]
    if len(groups) > 1:
        raise RunError(f"{len(groups)} recorded groups have ids that end with {name!r}: give more of the id")
    return next(iter(groups.values()))


class NewGroups:
    """Follows the files of a directory, those too that begin later.

    Args:
        directory: where they are. What is complete there now is not new.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._readers: dict[Path, RecordReader] = {}
        for file in rollout_files(directory):
            reader = self._readers[file.path] = RecordReader(file.path)
            for _ in reader.lines():
                pass

    def read(self) -> Iterator[RecordedGroup]:
        """Yields the groups that have been recorded since the last time. Raises OSError."""
        for file in rollout_files(self._directory):
            yield from self._readers.setdefault(file.path, RecordReader(file.path))


def newest(directory: Path, count: int, wanted: GroupFilter) -> list[RecordedGroup]:
    """Returns the ``count`` newest groups that are wanted, oldest first. Raises OSError."""
    return last_records(directory, count, wanted.wants)

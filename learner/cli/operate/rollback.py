"""`leeway policy rollback`: the next start goes on from an older checkpoint, as a new timeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.checkpoint.store import DamagedError, completed, read_state, verify
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.publish.catalog import read_manifest
from learner.storage.fence import sync_directory

_ASIDE = "rolled_back_"


@dataclass(frozen=True)
class Rollback:
    """What was done: the checkpoint that is now the newest, those set aside, and what that costs.

    ``lost``: groups that only those set aside contain; None when one of them cannot be read.
    """

    checkpoint: Path
    step: int
    aside: list[str]
    newest_step: int
    lost: int | None


def roll_back(run: RunDirectory, version: int) -> Rollback:
    """Sets aside every checkpoint after the newest one that is no later than ``version``.

    Nothing is announced here: the next `leeway up --resume` publishes these weights under a new number.

    Raises:
        RunError: the run is going on, or no whole checkpoint is so old.
        CatalogError: no such version.
    """
    with run.hold():
        manifest = read_manifest(run.weights, version)
        there = completed(run.checkpoints)
        chosen = None
        for directory in reversed(there):
            try:
                state = read_state(directory)
                if state.epoch > manifest.epoch or state.step > manifest.step:
                    continue
                verify(directory, state)
            except DamagedError:
                continue
            chosen = directory, state
            break
        if chosen is None:
            raise RunError(
                f"{run.checkpoints}: no whole checkpoint at or before step {manifest.step} of epoch {manifest.epoch}, where "
                f"version {version} comes from (there are: {', '.join(path.name for path in there) or 'none'}); a larger "
                "learner.checkpoint.keep keeps older ones"
            )
        directory, state = chosen
        later = there[there.index(directory) + 1 :]
        rollback = Rollback(
            directory, state.step, [path.name for path in later], _newest_step(later, state.step), _lost(later)
        )
        for path in reversed(later):  # newest first: cut short, what is left still ends in a checkpoint
            path.rename(path.with_name(_free(path)))
        sync_directory(run.checkpoints)
        return rollback


def _lost(later: list[Path]) -> int | None:
    groups: set[tuple[str, str]] = set()
    for path in later:
        try:
            groups |= {(ref.fleet, ref.group_id) for ref in read_state(path).trained}
        except DamagedError:
            return None
    return len(groups)


def _newest_step(later: list[Path], step: int) -> int:
    return max([step, *(int(path.name.split("_")[1]) for path in later)])


def _free(path: Path) -> str:
    """A name of something set aside that nothing has yet."""
    name, number = _ASIDE + path.name, 1
    while path.with_name(name).exists():
        name, number = f"{_ASIDE}{path.name}.{number}", number + 1
    return name

"""`leeway policy rollback`: makes the next start continue from an older checkpoint, as a new timeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from learner.checkpoint.rollback import SET_ASIDE
from learner.checkpoint.store import DamagedError, completed, read_state, verify
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.publish.catalog import read_manifest
from learner.storage.fence import sync_directory


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes:
        checkpoint: the checkpoint from which the run will continue.
        step: its step.
        aside: names of the later checkpoints, which were set aside.
        newest_step: the newest step among all these checkpoints.
        lost: number of groups that only the later checkpoints contain; None when the newest cannot be read.
    """

    checkpoint: Path
    step: int
    aside: list[str]
    newest_step: int
    lost: int | None


def roll_back(run: RunDirectory, version: int) -> Rollback:
    """Sets aside every checkpoint after the newest intact one at or before ``version``.

    Fleets are not told here: the next `leeway up --resume` publishes these weights under a new version number.

    Raises:
        RunError: the run is in progress, or there is no intact checkpoint at or before the version.
        CatalogError: there is no such version.
    """
    with run.lock():
        manifest = read_manifest(run.weights, version)
        checkpoints = completed(run.checkpoints)
        chosen = None
        for directory in reversed(checkpoints):
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
                f"{run.checkpoints}: no intact checkpoint at or before step {manifest.step} of epoch {manifest.epoch}, where "
                f"version {version} comes from (there are: {', '.join(path.name for path in checkpoints) or 'none'}); a "
                "larger learner.checkpoint.keep keeps older ones"
            )
        directory, state = chosen
        later = checkpoints[checkpoints.index(directory) + 1 :]
        rollback = Rollback(
            directory,
            state.step,
            [path.name for path in later],
            _newest_step(later, state.step),
            _lost(later, state.contained),
        )
        for path in reversed(later):  # newest first: if interrupted, the newest that is left is still a valid start
            path.rename(path.with_name(_unused_name(path)))
        sync_directory(run.checkpoints)
        return rollback


def _lost(later: list[Path], contained: Mapping[str, int]) -> int | None:
    """Counts the groups in the newest of ``later`` beyond those that are ``contained`` in the chosen checkpoint."""
    if not later:
        return 0
    try:
        newest = read_state(later[-1]).contained
    except DamagedError:
        return None
    return sum(max(0, count - contained.get(fleet, 0)) for fleet, count in newest.items())


def _newest_step(later: list[Path], step: int) -> int:
    return max([step, *(int(path.name.split("_")[1]) for path in later)])


def _unused_name(path: Path) -> str:
    """A name under which a checkpoint can be set aside, not taken by an earlier rollback."""
    name, number = SET_ASIDE + path.name, 1
    while path.with_name(name).exists():
        name, number = f"{SET_ASIDE}{path.name}.{number}", number + 1
    return name

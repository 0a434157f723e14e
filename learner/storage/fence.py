"""The directory fence: of the learners that share a directory, only the one of the newest epoch can change it.

A learner may be frozen, replaced by a newer one, and thawed in the middle of a save or a publication. The queue refuses its
commits, but a file system knows no epochs, and asking the queue "am I still the newest?" before a rename is a race, however
short the gap. So the fence is in the file system itself. The learner of an epoch writes into a staging directory of its own,
such as ``.epoch_00000003/``, and whatever it does to the shared directory is one rename into or out of its staging directory.
A newer learner first fences older epochs off: it renames their staging directories away. From then on every rename of theirs
fails with ENOENT, and before that every one of them is visible.

The order of a start, and why:

1. the queue's epoch grows: no older learner can commit groups or register versions any more;
2. ``acquire``: our staging directory is made, then older epochs are fenced off;
3. the directory is read: which checkpoint to resume from, which version numbers are used;
4. ``LearnerQueue.begin``, which fails unless our epoch is still the newest.

O is the older learner, N the newer one, at any point of O's life:

- O renames a checkpoint into place before 2: N sees it in 3 and resumes from it; O's commit fails, N's begin commits the
  groups. Before 1 it is alike, but O's commit may also succeed. Never is a group committed whose checkpoint N does not see.
- O renames it after 2: ENOENT. Its groups stay pending, N trains them.
- O writes shards after 2: its files went with its staging directory; ENOENT, or bytes into files that are being deleted. O
  never makes its staging directory again, because directories in it are made without parents.
- O renames a version before 2: N numbers its own above it. Registration fails, so no fleet hears of it: an orphan, which
  retention removes by age. After 2: ENOENT. Two epochs therefore never write the same name; should it happen all the same,
  a rename never replaces a directory that exists.
- O gives a checkpoint another name (``rename``: in and out of the staging directory) and is killed or fenced off between the
  two: the entry waits in O's staging directory under its new name. Whoever fences that directory off, N or M, finishes the
  rename before it deletes the directory and before it reads ``root``. Each of them looks through every directory that was
  fenced off, so the one that is late, or was frozen, finds nothing left to rename.
- O replaces the pointer file before 2: N's pointer comes later. After 2: ENOENT.
- O's retention deletes by renaming into its staging directory first: after 2 it can delete nothing. Before 2 it deletes only
  what is older than the newest it has seen, and N has not read the directory yet. Readers see a directory whole or not at
  all.
- N is frozen between 1 and 2 and M, newer still, starts: N makes its staging directory after M has fenced off, but N's begin
  (4) fails before N writes anything. N frozen between 2 and 4: its staging directory is gone or N's begin fails. N after 4: N
  is the O of M.
- M has acquired the directory before N's 2: N finds the staging directory of a newer epoch and ends.
- Redis has forgotten an epoch (AOF everysec): two learners have had the same one, but the first is dead or fenced off by the
  second, whose ``acquire`` covers its own epoch too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from pathlib import Path

from runtime.errors import LeewayError

_STAGING = re.compile(r"\.epoch_(\d+)$")
_MOVING = "moving_to_"  # prefix, in a staging directory, of what is being renamed; the rest is its new name


class SupersededError(LeewayError):
    """A newer learner has taken over this directory: this one must end."""


class DirectoryFence:
    """The right of the learner of ``epoch`` to change the directory ``root``.

    Rank 0 acquires it; the other ranks only write into the staging directory. Names that methods take are relative to the
    staging directory or to ``root``. Methods raise OSError as the file system does; FileNotFoundError because the staging
    directory is gone means that the right is lost.
    """

    def __init__(self, root: Path, epoch: int) -> None:
        self.root = root
        self.epoch = epoch
        self._staging = root / f".epoch_{epoch:08d}"

    def acquire(self) -> None:
        """Makes this epoch's staging directory, empty, fences older epochs off, and finishes renames that they began.

        Raises:
            SupersededError: a newer epoch has a staging directory.
            FileExistsError: an older epoch's rename cannot be finished, because its new name is taken.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if self._staging.exists():
            self._fence_off(self._staging)
        self._staging.mkdir()
        for staging in self.root.glob(".epoch_*"):
            epoch = _epoch(staging)
            if epoch > self.epoch:
                raise SupersededError(
                    f"{self.root}: acquired by a learner of epoch {epoch}, this one has epoch {self.epoch}; if the queue was "
                    f"emptied and no other learner runs, remove {staging}"
                )
            if epoch < self.epoch:
                self._fence_off(staging)
        for leftover in self.root.glob(".fenced_off_*"):
            self._discard_fenced_off(leftover)

    def is_current(self) -> bool:
        """Whether no newer learner has acquired the directory. False is final; True may be outdated at once."""
        return self._staging.is_dir()

    def require_current(self) -> None:
        """Raises SupersededError when a newer learner has acquired the directory."""
        if not self.is_current():
            raise SupersededError(f"{self.root}: a newer learner has taken over from epoch {self.epoch}")

    def staging_path(self, name: str) -> Path:
        """Path at which ``name`` is written before it is committed. Make directories there without parents."""
        return self._staging / name

    def commit(self, name: str, final: str) -> Path:
        """Renames a staged file or directory into ``root``, durably, and returns its path there.

        Raises:
            FileExistsError: ``final`` exists already; nothing is replaced.
        """
        target = self.root / final
        if target.exists():  # an empty directory would be replaced; any other the kernel refuses
            raise FileExistsError(f"{target} exists: not replaced")
        os.rename(self._staging / name, target)
        sync_directory(self.root)
        return target

    def replace_text(self, final: str, text: str) -> None:
        """Writes a small file in ``root``, atomically, whether or not it exists."""
        temporary = self._staging / final
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.root / final)

    def rename(self, name: str, final: str) -> None:
        """Gives a file or directory in ``root`` another name, durably. If interrupted, the next ``acquire`` finishes it."""
        passing = self._staging / f"{_MOVING}{final}"
        os.rename(self.root / name, passing)
        os.rename(passing, self.root / final)
        sync_directory(self.root)

    def remove(self, name: str) -> None:
        """Atomically (for readers) removes a file or directory in ``root``: renames it away, then deletes it."""
        doomed = self._staging / uuid.uuid4().hex
        os.rename(self.root / name, doomed)
        if doomed.is_file():
            doomed.unlink()
        else:
            shutil.rmtree(doomed, ignore_errors=True)

    def discard_staged(self, name: str) -> None:
        """Deletes the staged directory ``name``, if there is one."""
        shutil.rmtree(self._staging / name, ignore_errors=True)

    def _fence_off(self, staging: Path) -> None:
        away = self.root / f".fenced_off_{uuid.uuid4().hex}"
        try:
            os.rename(staging, away)
        except FileNotFoundError:
            return  # another learner was faster
        self._discard_fenced_off(away)

    def _discard_fenced_off(self, away: Path) -> None:
        """Finishes the renames that were begun in a staging directory that was fenced off, and deletes the directory."""
        for passing in away.glob(f"{_MOVING}*"):
            target = self.root / passing.name.removeprefix(_MOVING)
            if target.exists():
                raise FileExistsError(f"{passing}: was being renamed to {target}, which exists: move one of them away")
            with contextlib.suppress(FileNotFoundError):  # another learner was faster
                os.rename(passing, target)
            sync_directory(self.root)
        shutil.rmtree(away, ignore_errors=True)


def newest_epoch(root: Path) -> int:
    """Newest epoch that has a staging directory in ``root``; 0 for none. A new learner's epoch must be above it."""
    return max((_epoch(staging) for staging in root.glob(".epoch_*")), default=0)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable (fsync)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _epoch(staging: Path) -> int:
    found = _STAGING.search(staging.name)
    return int(found.group(1)) if found else 0

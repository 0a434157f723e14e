"""A directory that learners of successive epochs share, and the right to change it.

A learner may be frozen, replaced by a newer one, and thawed in the middle of a save or a publication. The queue refuses its
commits, but a file system knows no epochs, and asking the queue "am I still the newest?" before a rename is a race, however
short the gap. So the fence is in the file system itself. The learner of an epoch writes into a room of its own, such as
``.epoch_00000003/``, and whatever it does to the shared directory is one rename into or out of that room. A newer learner
first renames the rooms of all older epochs away: from then on every rename of theirs fails with ENOENT, and before that
every one of them is visible.

The order of a start, and why:

1. the queue's epoch grows: no older learner can commit groups or register versions any more;
2. ``take``: our room is made, then older rooms are evicted;
3. the directory is read: which checkpoint to resume from, which version numbers are used;
4. ``LearnerQueue.begin``, which fails unless our epoch is still the newest.

O is the older learner, N the newer one, at any point of O's life:

- O renames a checkpoint before 2: N sees it in 3 and resumes from it; O's commit fails, N's begin commits the groups. The
  same before 1, where O's commit may also succeed. Never is a group committed whose checkpoint N does not see.
- O renames it after 2: ENOENT. Its groups stay pending, N trains them.
- O writes shards after 2: its files went with its room; ENOENT, or bytes into files that are being deleted. The room is never
  made again by O, because directories in it are made without parents.
- O renames a version before 2: N numbers its own above it. Registration fails, so no fleet hears of it: an orphan, which
  retention removes by age. After 2: ENOENT. Two epochs therefore never write the same name; should it happen all the same,
  a rename never replaces a directory that exists.
- O replaces the pointer file before 2: N's pointer comes later. After 2: ENOENT.
- O's retention deletes by renaming into its room first: after 2 it can delete nothing. Before 2 it deletes only what is older
  than the newest it has seen, and N has not read the directory yet. Readers see a directory whole or not at all.
- N is frozen between 1 and 2 and M, newer still, starts: N's room is made after M evicted, but N's begin (4) fails before N
  writes anything. N frozen between 2 and 4: its room is gone or N's begin fails. N after 4: N is the O of M.
- M has taken the directory before N's 2: N finds a room of a newer epoch and ends.
- Redis has forgotten an epoch (AOF everysec): two learners have had the same one, but the first is dead or fenced by the
  second's eviction, which covers its own epoch too.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

from runtime.errors import LeewayError

_STAGING = re.compile(r"\.epoch_(\d+)$")


class SupersededError(LeewayError):
    """A newer learner has taken over this directory: this one must end."""


class DirectoryFence:
    """The right of the learner of ``epoch`` to change ``root``. ``take`` it on rank 0; the other ranks only write into it.

    Methods raise OSError as the file system does; FileNotFoundError of the room means that the right is lost.
    """

    def __init__(self, root: Path, epoch: int) -> None:
        self.root = root
        self.epoch = epoch
        self._staging = root / f".epoch_{epoch:08d}"

    def take(self) -> None:
        """Makes our room and takes away those of our predecessors.

        Raises:
            SupersededError: a newer learner has one.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if self._staging.exists():
            self._fence_off(self._staging)
        self._staging.mkdir()
        for staging in self.root.glob(".epoch_*"):
            epoch = _epoch(staging)
            if epoch > self.epoch:
                raise SupersededError(
                    f"{self.root}: in the hands of a learner of epoch {epoch}, ours is {self.epoch}; if the queue was "
                    f"emptied and no other learner runs, remove {staging}"
                )
            if epoch < self.epoch:
                self._fence_off(staging)
        for leftover in self.root.glob(".evicted_*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def held(self) -> bool:
        """Whether the room is still there. A false answer is final."""
        return self._staging.is_dir()

    def require(self) -> None:
        """Raises SupersededError when a newer learner has taken over."""
        if not self.held():
            raise SupersededError(f"{self.root}: a newer learner has taken over from epoch {self.epoch}")

    def path(self, name: str) -> Path:
        """Where ``name`` is written before it is put into the directory. Make it without parents."""
        return self._staging / name

    def put(self, name: str, final: str) -> Path:
        """Renames a whole file or directory from the room into the directory, where ``final`` must not exist."""
        target = self.root / final
        if target.exists():  # an empty directory would be replaced; any other the kernel refuses
            raise FileExistsError(f"{target} exists: not replaced")
        os.rename(self._staging / name, target)
        sync_directory(self.root)
        return target

    def put_text(self, final: str, text: str) -> None:
        """Replaces a small file."""
        temporary = self._staging / final
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.root / final)

    def rename(self, name: str, final: str) -> None:
        """Gives an entry of the directory another name."""
        passing = self._staging / uuid.uuid4().hex
        os.rename(self.root / name, passing)
        os.rename(passing, self.root / final)
        sync_directory(self.root)

    def remove(self, name: str) -> None:
        """Removes a directory of the directory, for readers at one stroke."""
        doomed = self._staging / uuid.uuid4().hex
        os.rename(self.root / name, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def discard(self, name: str) -> None:
        """Removes what is in the room under this name, if anything."""
        shutil.rmtree(self._staging / name, ignore_errors=True)

    def _fence_off(self, staging: Path) -> None:
        away = self.root / f".evicted_{uuid.uuid4().hex}"
        try:
            os.rename(staging, away)
        except FileNotFoundError:
            return  # another learner was faster
        shutil.rmtree(away, ignore_errors=True)


def newest_epoch(root: Path) -> int:
    """The newest epoch that has claimed this directory; 0 for none. The queue's must be above it."""
    return max((_epoch(staging) for staging in root.glob(".epoch_*")), default=0)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _epoch(staging: Path) -> int:
    found = _STAGING.search(staging.name)
    return int(found.group(1)) if found else 0

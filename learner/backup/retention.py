"""Which backups stay at a place: the newest complete ones of a run. What others have written there is not touched."""

from __future__ import annotations

import calendar
import time

from learner.backup.errors import BackupError
from learner.backup.manifest import MANIFEST, backups_in, read_manifest
from learner.backup.store import BackupStore

_ABANDONED_S = 7 * 86_400.0  # after which a backup without a manifest is taken for one that was cut off


def remove_oldest(prefix: BackupStore, run: str, keep: int) -> list[str]:
    """Removes the oldest complete backups of a run beyond ``keep``, and those that were cut off more than a week ago.

    The manifest goes first: what is left of a removal that is cut off is no backup.

    Args:
        prefix: where the backups are.
        run: name of the run's keys; backups of other runs stay.
        keep: how many stay, at least 1.

    Returns:
        The names of those that were removed.

    Raises:
        OSError: the place cannot be read or changed.
    """
    complete: list[str] = []
    removed: list[str] = []
    for name in backups_in(prefix):
        store = prefix.below(name)
        if store.exists(MANIFEST):
            try:
                complete += [name] if read_manifest(store).run == run else []
            except BackupError:
                continue  # damaged, or of another release: for a person to look at
        elif time.time() - _begun(name) > _ABANDONED_S:
            prefix.remove(name)
            removed.append(name)
    for name in complete[: -max(1, keep)]:
        prefix.remove(f"{name}/{MANIFEST}")
        prefix.remove(name)
        removed.append(name)
    return removed


def _begun(name: str) -> float:
    """Unix seconds at which a backup of this name began."""
    return calendar.timegm(time.strptime(name.split("-")[1][:15], "%Y%m%dT%H%M%S"))

"""Which published versions stay: the newest few, every n-th, those in use or pinned, and the bases of all of these."""

from __future__ import annotations

from learner.config import PublishConfig
from learner.publish.catalog import pinned, with_bases
from learner.publish.mirror import Mirror
from learner.storage.fence import DirectoryFence
from runtime.version_format.names import version_name, versions_on_disk


def remove_expired(
    fence: DirectoryFence, mirror: Mirror | None, config: PublishConfig, newest: int, in_use: set[int]
) -> None:
    """Removes the versions that need not stay, on disk and in the mirror.

    Args:
        fence: fence of the directory of versions.
        newest: the version published last.
        in_use: versions that fleets run or that training still needs.

    Raises:
        SupersededError: a newer learner has taken over (only the mirror asks).
        OSError: something could not be removed; FileNotFoundError when the staging directory is gone, that is, when a
            newer learner has taken over.
    """
    root = fence.root
    present = versions_on_disk(root)
    protected = in_use | pinned(root)
    kept = {
        version
        for version in present
        if version > newest - config.keep
        or version in protected
        or (config.keep_every and version % config.keep_every == 0)
    }
    if config.full_every > 1:
        kept = with_bases(root, kept)
    for version in present:
        if version not in kept:
            fence.remove(version_name(version))
    if mirror is not None:
        mirror.retain(kept, newest)

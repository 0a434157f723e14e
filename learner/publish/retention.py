"""Which published versions stay: the newest few, every n-th, those in use, pinned or the best, and the bases of all these."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from learner.config import PublishConfig
from learner.publish.catalog import pinned, with_bases
from learner.storage.fence import DirectoryFence
from runtime.version_format.names import version_name, versions_on_disk


@dataclass(frozen=True)
class Versions:
    """What is known of the versions when one has been published.

    Attributes:
        newest: the version published last.
        in_use: versions that fleets run or fetch, that are evaluated or the best so far, or that training still needs.
        failed: versions that were never announced, whatever is left of them on disk or in a mirror.
    """

    newest: int
    in_use: Set[int]
    failed: Set[int]


def remove_expired(fence: DirectoryFence, config: PublishConfig, known: Versions) -> set[int]:
    """Removes the versions that need not stay from the disk; returns those that stay. Numbers without a version do not count.

    Raises:
        OSError: something could not be removed; FileNotFoundError when the staging directory is gone, that is, when a
            newer learner has taken over.
    """
    root = fence.root
    present = versions_on_disk(root)
    announced = [version for version in present if version not in known.failed]
    protected = known.in_use | pinned(root)
    kept = {
        version
        for version in announced
        if version in announced[-config.keep :]
        or version in protected
        or (config.keep_every and version % config.keep_every == 0)
    }
    if config.full_every > 1:
        kept = with_bases(root, kept)
    for version in present:
        if version not in kept:
            fence.remove(version_name(version))
    return kept

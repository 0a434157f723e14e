"""What a change leaves in the run's directories, on rank 0: pinned versions, and the request of a rollback."""

from __future__ import annotations

from pathlib import Path

from learner.checkpoint.rollback import RollbackRequest, newest_at, read_request
from learner.config.changeable import ChangeError
from learner.publish.catalog import PINNED, CatalogError, read_manifest
from learner.storage.fence import DirectoryFence


def pin(root: Path, version: int) -> str:
    """Keeps a version until it is unpinned, as `leeway policy pin` does. Raises ChangeError: there is none, or no space."""
    try:
        read_manifest(root, version)
        mark = root / PINNED / f"{version:06d}"
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    except CatalogError as error:
        raise ChangeError(f"version = {version}: {error}; pin one that leeway policy list shows") from error
    except OSError as error:
        raise ChangeError(f"version = {version}: {root / PINNED} cannot be written ({error})") from error
    return ""


def unpin(root: Path, version: int) -> str:
    """Lets retention remove a version again. Raises ChangeError: the mark cannot be removed."""
    try:
        (root / PINNED / f"{version:06d}").unlink()
    except FileNotFoundError:
        return "it was not pinned"
    except OSError as error:
        raise ChangeError(f"version = {version}: {root / PINNED} cannot be written ({error})") from error
    return ""


def requested_already(fence: DirectoryFence, request_id: str) -> str | None:
    """Name of the checkpoint that the run went back to for this request; None if it has not been applied."""
    found = read_request(fence.root)
    return found.checkpoint if found is not None and found.request_id == request_id else None


def request_rollback_to(
    fence: DirectoryFence, versions: Path, version: int, step: int, asked: tuple[str, str], limits: tuple[int, float]
) -> str:
    """Requests a rollback to the newest checkpoint at or before a version; the next start applies it.

    Args:
        fence: the right to change the directory of checkpoints.
        versions: directory of the versions.
        version: number of the version.
        step: optimizer steps that the run has made.
        asked: id of the request, and who asks.
        limits: number of the rollback in the run, and the factor on the learning rate after it.

    Returns:
        The checkpoint's name.

    Raises:
        ChangeError: there is no such version, or no checkpoint at or before it, or the request cannot be written.
        SupersededError: a newer learner has taken over.
    """
    try:
        manifest = read_manifest(versions, version)
    except CatalogError as error:
        raise ChangeError(f"version = {version}: {error}; choose one that leeway policy list shows") from error
    target = newest_at(fence.root, manifest.epoch, manifest.step)
    if target is None:
        raise ChangeError(
            f"version = {version}: no checkpoint is left at or before its step, {manifest.step}; choose a newer version (a "
            "larger learner.checkpoint.keep keeps older checkpoints)"
        )
    request_id, operator = asked
    reason = f"{operator} asked to go back to version {version}"
    request = RollbackRequest(
        limits[0], fence.epoch, step, target.name, limits[1], "operator", reason, request_id=request_id
    )
    try:
        request.write(fence)
    except OSError as error:
        fence.require_current()
        raise ChangeError(
            f"{fence.root}: the rollback cannot be requested ({error}); make space, and ask again"
        ) from error
    return target.name

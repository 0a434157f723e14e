"""Rebuilding the full version that a chain of deltas yields, in a directory of this machine.

The chain is followed back, from manifest to manifest, to the nearest version that was rebuilt here before, or else to a full
version where the learner publishes. Only the result is trusted: the last manifest has the digest of every file of it. A
worker that missed a delta, or whose own copy is damaged, therefore begins again at the last full version.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

import structlog

from leeway.v1 import manifest_pb2
from rollout.versions.delta_patch import patch
from rollout.versions.manifest import (
    FetchError,
    UnreadableError,
    VersionError,
    disk_errors_pass,
    plain,
    read_manifest,
    verify_files,
)
from rollout.versions.node_cache import NodeCache
from rollout.versions.source import VersionSource
from runtime.version_format.delta_codec import DeltaError
from runtime.version_format.names import MANIFEST
from runtime.version_format.safetensors_header import HeaderError

_LONGEST_CHAIN = 10_000  # deltas
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _UnreadableBaseError(UnreadableError):
    """The version that deltas are applied to cannot be copied, and not for want of room."""


class Rebuilder:
    """Rebuilds versions in ``cache``, once for all workers that share it; bases come from ``source``."""

    def __init__(self, cache: NodeCache, source: VersionSource) -> None:
        self._cache = cache
        self._source = source

    def rebuild(self, directory: Path, manifest: manifest_pb2.Manifest) -> Path:
        """Returns the directory of the full version; its files are verified against ``manifest.results``.

        Args:
            directory: directory of the delta version.
            manifest: manifest of the delta version.

        Raises:
            FetchError: a file could not be read or written now, such as on a full disk.
            VersionError: a link of the chain is missing or damaged, or the result is not what the manifest says.
        """
        with self._cache.locked():
            self._cache.evict()  # what nobody reads any more makes room
            target = self._cache.path(manifest.version)
            if not _is_intact(target, directory, manifest):
                self._rebuild(directory, manifest, target)
            self._cache.hold(manifest.version)
            self._cache.evict()
        return target

    def _rebuild(self, directory: Path, manifest: manifest_pb2.Manifest, target: Path) -> None:
        base, links = self._chain(directory, manifest, use_cache=True)
        try:
            self._build(base, links, target)
        except VersionError as error:
            passes = isinstance(error, FetchError) and not isinstance(error, _UnreadableBaseError)
            if passes or base.parent != self._cache.root:
                raise
            structlog.get_logger().warning(
                "rebuilt version not usable as a base: starting again from the last full one",
                base=base.name,
                error=str(error),
            )
            shutil.rmtree(base, ignore_errors=True)
            base, links = self._chain(directory, manifest, use_cache=False)
            self._build(base, links, target)

    def _chain(
        self, directory: Path, manifest: manifest_pb2.Manifest, use_cache: bool
    ) -> tuple[Path, list[tuple[Path, manifest_pb2.Manifest]]]:
        """Directory of the version to begin with, and (directory, manifest) of the deltas to apply to it, in order."""
        links = [(directory, manifest)]
        while len(links) <= _LONGEST_CHAIN:
            number = links[-1][1].base_version
            if number >= links[-1][1].version:
                raise VersionError("manifest.base_version", f"{number}: not below version {links[-1][1].version}")
            cached = self._cache.path(number)
            if use_cache and (cached / MANIFEST).is_file():
                return cached, links[::-1]
            try:
                published = self._source.directory(number)
                found = read_manifest(published)
            except FetchError:
                raise
            except VersionError as error:
                raise VersionError(
                    "manifest.base_version",
                    f"{number}, which version {links[-1][1].version} needs, {error}: the next full version will do",
                ) from error
            if not found.HasField("base_version"):
                return published, links[::-1]
            links.append((published, found))
        raise VersionError("manifest.base_version", f"more than {_LONGEST_CHAIN} deltas in a row")

    def _build(self, base: Path, links: list[tuple[Path, manifest_pb2.Manifest]], target: Path) -> None:
        directory, manifest = links[-1]
        temporary = self._cache.root / ".building"
        shutil.rmtree(temporary, ignore_errors=True)
        names = [plain(file.name) for file in manifest.results]
        shards = [temporary / name for name in names if name.endswith(".safetensors")]
        field = f"delta to version {manifest.version}"
        try:
            with disk_errors_pass(field):
                temporary.mkdir()
                _copy(base, temporary, names)
                for source, link in links:
                    verify_files(source, link.files)
                    patch(shards, [source / file.name for file in link.files if file.name.endswith(".safetensors")])
                verify_files(temporary, manifest.results)
                shutil.copyfile(directory / MANIFEST, temporary / MANIFEST)
                shutil.rmtree(target, ignore_errors=True)
                temporary.rename(target)
        except (DeltaError, HeaderError) as error:
            raise VersionError(field, str(error)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # a part of a version must not take the room for the whole


def _copy(base: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        try:
            shutil.copyfile(base / name, target / name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise VersionError("manifest.base_version", f"{error}: the next full version will do") from error
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            raise _UnreadableBaseError("manifest.base_version", str(error)) from error


def _is_intact(target: Path, directory: Path, manifest: manifest_pb2.Manifest) -> bool:
    """Whether the version was rebuilt before and is still what it should be: an engine may be reading it."""
    try:
        if (target / MANIFEST).read_bytes() != (directory / MANIFEST).read_bytes():
            return False
        verify_files(target, manifest.results)
    except (OSError, VersionError):
        return False
    return True

"""Copy of the published versions in an object store, or wherever else fsspec reaches, for workers without the disk.

A version is copied after it is complete on disk: its shards, by all ranks at the same time, the other files, then its
manifest, which is the commit point, for an object store has no rename; then the pointer. Of a delta, the versions below it
that the mirror has missed are copied before. What retention removes on disk is removed there too, manifest first. A version
number is never written twice: it was taken on disk, where learner.storage.fence rules out two writers. Whether this is
still the newest learner is asked before the manifest, the pointer and every removal; the one race that remains is that the
pointer may, for a moment, name the version before the newest. Workers hear of versions through the gateway, never by the
pointer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Set
from functools import partial
from pathlib import Path

import fsspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from learner.config import MirrorConfig
from learner.publish.catalog import POINTER, with_bases
from learner.storage.fence import DirectoryFence
from runtime.transfer import at_once, transfer
from runtime.version_format.names import MANIFEST, version_name, version_of

_FILES_AT_ONCE = 4


class Mirror:
    """A copy of the versions at a URL. Every rank has one, for its own shards; what has no rank in its name is rank 0's.

    Methods raise OSError whatever the store's client raises or does not answer, after some attempts, and SupersededError when
    a newer learner has taken over.

    Args:
        config: URL, options of its client (which must be installed: s3fs, gcsfs), time limit of a transfer.
        fence: fence of the directory of versions.

    Attributes:
        name: as fleets are told of it.
        wait_s: seconds for which the announcement of a version waits for it.
    """

    def __init__(self, config: MirrorConfig, fence: DirectoryFence) -> None:
        self.name, self.wait_s = config.name, config.wait_s
        self._fence = fence
        self._url = config.url.rstrip("/")
        self._limit_s = config.transfer_timeout_s
        try:
            self._store, self._root = fsspec.core.url_to_fs(config.url, **config.url_options)
        except Exception as error:  # a third-party client may raise anything
            raise OSError(f"{config.url}: {type(error).__name__}: {error}") from error

    def put_files(self, version: int, names: Iterable[str]) -> None:
        """Copies files of a version, several at a time, each in parallel parts where the client can."""
        directory, target = self._fence.root / version_name(version), self._target(version)
        actions = [partial(self._put_file, directory / name, f"{target}/{name}") for name in sorted(names)]
        if actions:
            self._do(target, lambda: self._store.makedirs(target, exist_ok=True))
        at_once(actions, _FILES_AT_ONCE)

    def complete(self, version: int, shards: Set[str]) -> str:
        """Copies the files that are not ``shards``, then the manifest and the pointer; returns the version's URL.

        Of a delta, the versions that it is built on are copied before, where the mirror has missed them.
        """
        target = self._target(version)
        for base in sorted(with_bases(self._fence.root, [version]) - {version}):
            if not self._has(base):
                structlog.get_logger().info("mirror catches up with a version", mirror=self.name, version=base)
                self._put_version(base, set())
        self._put_version(version, shards)
        self._fence.require_current()
        self._do(f"{self._root}/{POINTER}", lambda: self._store.pipe_file(f"{self._root}/{POINTER}", b"%d" % version))
        if isinstance(self._store, LocalFileSystem):
            return Path(target).as_uri()
        return f"{self._url}/{version_name(version)}"

    def retain(self, kept: set[int], newest: int) -> None:
        """Removes the versions up to ``newest`` that are not in ``kept``."""
        self._store.invalidate_cache()
        entries: list[str] = []
        self._do(self._root, lambda: entries.extend(self._store.ls(self._root, detail=False)))
        for entry in dict.fromkeys(entries):
            version = version_of(Path(entry).name)
            if version is not None and version <= newest and version not in kept:
                self._fence.require_current()
                self._do(entry, partial(self._remove, entry))

    def _put_version(self, version: int, present: Set[str]) -> None:
        """Copies the files of a version that are not ``present`` there, then its manifest."""
        directory, target = self._fence.root / version_name(version), self._target(version)
        self.put_files(version, {path.name for path in directory.iterdir()} - present - {MANIFEST})
        manifest = (directory / MANIFEST).read_bytes()
        self._fence.require_current()
        self._do(f"{target}/{MANIFEST}", lambda: self._store.pipe_file(f"{target}/{MANIFEST}", manifest))

    def _has(self, version: int) -> bool:
        found: list[bool] = []
        path = f"{self._target(version)}/{MANIFEST}"
        self._do(path, lambda: (self._store.invalidate_cache(), found.append(self._store.exists(path))))
        return found[-1]

    def _target(self, version: int) -> str:
        return f"{self._root}/{version_name(version)}"

    def _put_file(self, path: Path, target: str) -> None:
        self._do(target, lambda: self._store.put_file(str(path), target))

    def _remove(self, entry: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._store.rm_file(f"{entry}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):  # an attempt before this one has removed it
            self._store.rm(entry, recursive=True)

    def _do(self, what: str, action: Callable[[], object]) -> None:
        transfer(what, action, self._limit_s)

"""Copy of the published versions in an object store, or wherever else fsspec reaches, for workers without the disk.

A version is copied after it is complete on disk: its files, then its manifest, which is the commit point, for an object store
has no rename; then the pointer. Only then is it announced, with its URL there. What retention removes on disk is removed
there too, manifest first. A version number is never written twice: it was taken on disk, where learner.storage.fence rules
out two writers. Whether this is still the newest learner is asked before the manifest, the pointer and every removal; the
one race that remains is that the pointer may, for a moment, name the version before the newest. Workers hear of versions
through the gateway, never by the pointer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from learner.publish.catalog import POINTER
from learner.storage.fence import DirectoryFence, SupersededError
from runtime.version_format.names import MANIFEST, version_name, version_of


class Mirror:
    """Rank 0's copy of the versions at a URL.

    Methods raise OSError, whatever the store's client raises, and SupersededError when a newer learner has taken over.

    Args:
        url: s3://bucket/path, gs://..., file:///..., memory://...; its client must be installed (s3fs, gcsfs).
        options: arguments of that client: credentials, endpoint, timeouts.
        fence: fence of the directory of versions.
    """

    def __init__(self, url: str, options: dict[str, Any], fence: DirectoryFence) -> None:
        self._fence = fence
        with _translated(url):
            self._store, self._root = fsspec.core.url_to_fs(url, **options)

    def put(self, version: int) -> str:
        """Copies a version; returns its URL."""
        directory = self._fence.root / version_name(version)
        target = f"{self._root}/{version_name(version)}"
        with _translated(target):
            self._store.makedirs(target, exist_ok=True)
            for path in sorted(directory.iterdir()):
                if path.name != MANIFEST:
                    self._store.put_file(str(path), f"{target}/{path.name}")
            self._fence.require_current()
            self._store.pipe_file(f"{target}/{MANIFEST}", (directory / MANIFEST).read_bytes())
            self._fence.require_current()
            self._store.pipe_file(f"{self._root}/{POINTER}", str(version).encode())
        return (
            Path(target).as_uri() if isinstance(self._store, LocalFileSystem) else self._store.unstrip_protocol(target)
        )

    def retain(self, kept: set[int], newest: int) -> None:
        """Removes the versions up to ``newest`` that are not in ``kept``."""
        with _translated(self._root):
            self._store.invalidate_cache()
            for entry in self._store.ls(self._root, detail=False):
                version = version_of(Path(entry).name)
                if version is not None and version <= newest and version not in kept:
                    self._fence.require_current()
                    with contextlib.suppress(FileNotFoundError):
                        self._store.rm_file(f"{entry}/{MANIFEST}")
                    self._store.rm(entry, recursive=True)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SupersededError):
        raise
    except Exception as error:  # a third-party client may raise anything
        raise OSError(f"{what}: {type(error).__name__}: {error}") from error

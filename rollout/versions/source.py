"""Where published versions lie: a directory of this machine, or a URL that fsspec reaches, read through a local copy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from rollout.versions.manifest import MANIFEST, VersionError, plain, read_manifest

_KEPT = 3  # an engine may still read the one before the newest


class VersionSource(Protocol):
    """A place of publication."""

    def directory(self, version: int) -> Path:
        """A local directory with the version's manifest and files; unverified. Raises VersionError."""
        ...


class LocalSource:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, version: int) -> Path:
        return self._root / version_name(version)


class RemoteSource:
    """A URL; versions are copied to ``cache`` when asked for, the newest few stay.

    Raises:
        VersionError: no client for the scheme.
    """

    def __init__(self, url: str, cache: Path) -> None:
        import fsspec  # only those who read from elsewhere need it

        self._cache = cache
        with _translated(url):
            self._store, self._root = fsspec.core.url_to_fs(url)

    def directory(self, version: int) -> Path:
        name = version_name(version)
        here, there = self._cache / name, f"{self._root}/{name}"
        temporary = self._cache / ".fetching"
        with _translated(there):
            content = self._store.cat_file(f"{there}/{MANIFEST}")
            if here.is_dir() and (here / MANIFEST).read_bytes() == content and _complete(here):
                return here
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / MANIFEST).write_bytes(content)
            for file in read_manifest(temporary).files:
                self._store.get_file(f"{there}/{plain(file.name)}", str(temporary / file.name))
        shutil.rmtree(here, ignore_errors=True)
        temporary.rename(here)
        for old in sorted(self._cache.glob("weight_v*"), key=lambda path: int(path.name[8:]))[:-_KEPT]:
            if old != here:
                shutil.rmtree(old, ignore_errors=True)
        return here


def source_of(uri: str, cache: Path | None) -> VersionSource:
    """Where the version at ``uri`` and its siblings lie. Raises VersionError."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalSource(Path(unquote(parts.path)).parent)
    if parts.scheme in ("", "file") or cache is None:
        raise VersionError("policy.uri", f"{uri!r}: expected file:///..., or with a cache_dir s3://... or the like")
    return RemoteSource(uri.rstrip("/").rpartition("/")[0], cache)


def version_name(version: int) -> str:
    """``weight_v000012``."""
    return f"weight_v{version:06d}"


def _complete(directory: Path) -> bool:
    """Whether every file has its size; the checksums are the reader's business."""
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    return all(sizes.get(file.name) == file.size for file in read_manifest(directory).files)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except VersionError:
        raise
    except Exception as error:  # the boundary to a client of somebody else, which may raise anything
        raise VersionError("policy.uri", f"{what}: {type(error).__name__}: {error}") from error

"""Sources of published versions: a directory of this machine, or a URL that fsspec reaches, through a local copy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from rollout.versions.manifest import VersionError, plain, read_manifest
from runtime.version_format.names import MANIFEST, version_name, versions_on_disk

_KEPT = 3  # versions; an engine may still read the one before the newest


class VersionSource(Protocol):
    """Somewhere a learner publishes its versions."""

    def directory(self, version: int) -> Path:
        """Returns a local directory with the version's manifest and files, unverified. Raises VersionError."""
        ...


class LocalSource:
    """Versions in a directory of this machine, usually on a shared file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, version: int) -> Path:
        return self._root / version_name(version)


class RemoteSource:
    """Versions at a URL, copied to ``cache`` when they are asked for; the newest few copies stay.

    Raises:
        VersionError: there is no client for the URL's scheme.
    """

    def __init__(self, url: str, cache: Path) -> None:
        import fsspec  # imported only where versions are read from a URL

        self._cache = cache
        with _translated(url):
            self._store, self._root = fsspec.core.url_to_fs(url)

    def directory(self, version: int) -> Path:
        name = version_name(version)
        local, remote = self._cache / name, f"{self._root}/{name}"
        temporary = self._cache / ".fetching"
        with _translated(remote):
            content = self._store.cat_file(f"{remote}/{MANIFEST}")
            if local.is_dir() and (local / MANIFEST).read_bytes() == content and _is_complete(local):
                return local
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / MANIFEST).write_bytes(content)
            for file in read_manifest(temporary).files:
                self._store.get_file(f"{remote}/{plain(file.name)}", str(temporary / file.name))
        shutil.rmtree(local, ignore_errors=True)
        temporary.rename(local)
        for old in versions_on_disk(self._cache)[:-_KEPT]:
            if old != version:
                shutil.rmtree(self._cache / version_name(old), ignore_errors=True)
        return local


def source_of(uri: str, cache: Path | None) -> VersionSource:
    """Returns the source that holds the version at ``uri`` and its siblings.

    Args:
        uri: URI of a version's directory, as its announcement gives it.
        cache: where versions from other machines are copied; None refuses them.

    Raises:
        VersionError: ``uri`` has a scheme that cannot be read.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalSource(Path(unquote(parts.path)).parent)
    if parts.scheme in ("", "file") or cache is None:
        raise VersionError("policy.uri", f"{uri!r}: expected file:///..., or with a cache_dir s3://... or the like")
    return RemoteSource(uri.rstrip("/").rpartition("/")[0], cache)


def _is_complete(directory: Path) -> bool:
    """Whether every file has the size in the manifest; digests are checked later, by the verifier."""
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    return all(sizes.get(file.name) == file.size for file in read_manifest(directory).files)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except VersionError:
        raise
    except Exception as error:  # a third-party client may raise anything
        raise VersionError("policy.uri", f"{what}: {type(error).__name__}: {error}") from error

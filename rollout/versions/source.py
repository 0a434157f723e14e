"""Sources of published versions: a directory of this machine, or a URL that fsspec reaches, through a local copy."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from leeway.v1 import manifest_pb2, rollout_pb2
from rollout.versions.allowed import AllowedPlaces
from rollout.versions.manifest import FetchError, VersionError, disk_errors_pass, plain, read_manifest
from rollout.versions.node_cache import NodeCache
from runtime.transfer import TransferError, at_once, transfer
from runtime.version_format.names import MANIFEST, version_name

_FILES_AT_ONCE = 8
_FETCHING = ".fetching_"


class VersionSource(Protocol):
    """Somewhere a learner publishes its versions."""

    def directory(self, version: int) -> Path:
        """Returns a local directory with the version's manifest and files, unverified. Raises VersionError."""
        ...

    def forget(self) -> bool:
        """Removes local copies of what ``directory`` returned, as they may be damaged; False if there are no copies."""
        ...


class LocalSource:
    """Versions in a directory of this machine, usually on a shared file system."""

    def __init__(self, root: Path, allowed: AllowedPlaces) -> None:
        self._root = root
        self._allowed = allowed

    def directory(self, version: int) -> Path:
        found = self._root / version_name(version)
        self._allowed.require_path(found)
        for path in found.iterdir() if found.is_dir() else ():
            self._allowed.require_path(path)
        return found

    def forget(self) -> bool:
        return False


class RemoteSource:
    """Versions at a URL, copied to a cache when they are asked for.

    A version whose copy was interrupted goes on with the files that are still missing. The workers that share the cache copy
    each version once.

    Args:
        url: URL of the directory with the versions.
        cache: where the copies are.
        timeout_s: limit of the transfer of one file; each is tried three times.

    Raises:
        VersionError: there is no client for the URL's scheme.
    """

    def __init__(self, url: str, cache: NodeCache, timeout_s: float) -> None:
        import fsspec  # imported only where versions are read from a URL

        self._cache = cache
        self._timeout_s = timeout_s
        self._given: list[int] = []
        try:
            self._store, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # a third-party client may raise anything
            raise VersionError("policy.uri", f"{url}: {type(error).__name__}: {error}") from error

    def directory(self, version: int) -> Path:
        name = version_name(version)
        local, remote = self._cache.path(version), f"{self._root}/{name}"
        with self._cache.locked():
            content = self._get(f"{remote}/{MANIFEST}", lambda: self._store.cat_file(f"{remote}/{MANIFEST}"))
            if not _is_complete(local, content):
                self._fetch(remote, self._cache.root / f"{_FETCHING}{name}", content)
                shutil.rmtree(local, ignore_errors=True)
                (self._cache.root / f"{_FETCHING}{name}").rename(local)
            self._cache.hold(version)
            self._cache.evict()
        self._given.append(version)
        return local

    def forget(self) -> bool:
        given, self._given = self._given, []
        with self._cache.locked():
            self._cache.discard(given)
        return bool(given)

    def _fetch(self, remote: str, target: Path, content: bytes) -> None:
        """Copies what is missing of a version to ``target``, the manifest last."""
        for old in self._cache.root.glob(f"{_FETCHING}*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        target.mkdir(exist_ok=True)
        (target / MANIFEST).write_bytes(content)
        files = read_manifest(target).files
        wanted = {plain(file.name): file.size for file in files}
        for path in target.iterdir():
            if path.name != MANIFEST and path.name not in wanted:
                path.unlink()
        missing = [name for name, size in wanted.items() if _size(target / name) != size]
        try:
            at_once([partial(self._fetch_file, f"{remote}/{name}", target, name) for name in missing], _FILES_AT_ONCE)
        finally:
            for part in target.glob(".*.part"):
                part.unlink()

    def _fetch_file(self, remote: str, target: Path, name: str) -> None:
        # Each attempt has a file of its own: one that was given up may still be writing.
        def attempt() -> None:
            part = target / f".{name}.{uuid.uuid4().hex}.part"
            self._store.get_file(remote, str(part))
            part.replace(target / name)

        self._get(remote, attempt)

    def _get(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return transfer(what, action, self._timeout_s)
        except TransferError as error:
            raise FetchError("policy.uri", str(error)) from error


def choices(
    policy: rollout_pb2.Policy,
    allowed: AllowedPlaces,
    cache: NodeCache | None,
    timeout_s: float,
    wanted: Sequence[str] = (),
) -> Iterator[VersionSource]:
    """Yields those of the version's locations that this worker may and can read: the learner's disk comes first.

    Args:
        policy: the version's announcement.
        allowed: places that may be read.
        cache: where versions from other machines are copied; None refuses them.
        timeout_s: limit of the transfer of one file.
        wanted: names of the locations to be tried before all others, the most wanted first.

    Raises:
        FetchError: an allowed directory does not exist, and there is no other place.
        VersionError: no location may be read, or its scheme cannot be.
    """
    refusals: list[VersionError] = []
    found = False
    order = {name: number for number, name in enumerate(wanted)}
    places = sorted(policy.locations, key=lambda place: order.get(place.name, len(order)))
    for uri in [place.uri for place in places] or [policy.uri]:
        try:
            source = _source_at(uri, policy.version, allowed, (cache, timeout_s))
        except VersionError as error:
            refusals.append(error)
            continue
        found = True
        yield source
    if found:
        return
    later = any(isinstance(error, FetchError) for error in refusals)
    raise (FetchError if later else VersionError)("policy.uri", "; ".join(error.value for error in refusals))


def _source_at(uri: str, version: int, allowed: AllowedPlaces, remote: tuple[NodeCache | None, float]) -> VersionSource:
    place = allowed.require(uri)
    if not place.segments or place.segments[-1] != version_name(version):
        raise VersionError("policy.uri", f"{uri!r}: does not end in {version_name(version)}")
    cache, timeout_s = remote
    if place.scheme == "file":
        path = Path(place.path)
        with disk_errors_pass("policy.uri"):
            if not path.is_dir():
                raise FetchError("policy.uri", f"{uri!r}: no such directory on this machine")
        return LocalSource(path.parent, allowed)
    if cache is None:
        raise VersionError("policy.uri", f"{uri!r}: not on this machine, and there is no cache_dir to copy it to")
    parent = uri.rstrip("/").rpartition("/")[0]
    allowed.require(parent)
    return RemoteSource(parent, cache, timeout_s)


def _is_complete(directory: Path, content: bytes) -> bool:
    """Whether it has this manifest and every file in its size; digests are checked later, by the verifier."""
    try:
        if (directory / MANIFEST).read_bytes() != content:
            return False
        files: Sequence[manifest_pb2.ManifestFile] = read_manifest(directory).files
    except (OSError, VersionError):
        return False
    return all(_size(directory / file.name) == file.size for file in files)


def _size(path: Path) -> int:
    """Size of a file in bytes; -1 if there is none."""
    return path.stat().st_size if path.is_file() else -1

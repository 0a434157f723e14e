"""The full version that a chain of deltas yields, in a directory of this machine.

The chain is followed back, from manifest to manifest, to the nearest version that is here already, or else to a full one in
the place of publication. Only what comes out is trusted: the last manifest knows the digest of every file of the result. A
reader that missed a delta, or whose own copy is damaged, therefore begins again at the last full version.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from leeway.v1 import manifest_pb2
from rollout.versions.delta import DeltaError, patch
from rollout.versions.manifest import MANIFEST, VersionError, plain, read_manifest, verify_files
from rollout.versions.source import VersionSource, version_name

_KEPT = 2  # an engine may still read the one before the newest
_LONGEST = 10_000  # deltas in a row


class Rebuilder:
    """Keeps the newest rebuilt versions under ``cache``; one process per directory. Bases come from ``source``."""

    def __init__(self, cache: Path, source: VersionSource) -> None:
        self._cache = cache
        self._source = source

    def rebuild(self, directory: Path, manifest: manifest_pb2.Manifest) -> Path:
        """The directory of the full version, its files verified against ``manifest.results``.

        Args:
            directory: the delta's.
            manifest: the delta's.

        Raises:
            VersionError: a link of the chain is missing or damaged, or the result is not what the manifest says.
        """
        self._cache.mkdir(parents=True, exist_ok=True)
        target = self._cache / version_name(manifest.version)
        if _is(target, directory, manifest):
            return target
        base, links = self._chain(directory, manifest, use_cache=True)
        try:
            self._build(base, links, target)
        except VersionError as error:
            if base.parent != self._cache:
                raise
            structlog.get_logger().warning(
                "rebuilt version not usable as a base: beginning at the last full one", base=base.name, error=str(error)
            )
            shutil.rmtree(base, ignore_errors=True)
            base, links = self._chain(directory, manifest, use_cache=False)
            self._build(base, links, target)
        self._retain()
        return target

    def _chain(
        self, directory: Path, manifest: manifest_pb2.Manifest, use_cache: bool
    ) -> tuple[Path, list[tuple[Path, manifest_pb2.Manifest]]]:
        """Where to begin, and the deltas to apply, first one first."""
        links = [(directory, manifest)]
        while len(links) <= _LONGEST:
            number = links[-1][1].base_version
            if number >= links[-1][1].version:
                raise VersionError("manifest.base_version", f"{number}: not below version {links[-1][1].version}")
            here = self._cache / version_name(number)
            if use_cache and (here / MANIFEST).is_file():
                return here, links[::-1]
            try:
                there = self._source.directory(number)
                found = read_manifest(there)
            except VersionError as error:
                raise VersionError(
                    "manifest.base_version",
                    f"{number}, which version {links[-1][1].version} needs, {error}: the next full version will do",
                ) from error
            if not found.HasField("base_version"):
                return there, links[::-1]
            links.append((there, found))
        raise VersionError("manifest.base_version", f"more than {_LONGEST} deltas in a row")

    def _build(self, base: Path, links: list[tuple[Path, manifest_pb2.Manifest]], target: Path) -> None:
        directory, manifest = links[-1]
        temporary = self._cache / ".building"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        names = [plain(file.name) for file in manifest.results]
        shards = [temporary / name for name in names if name.endswith(".safetensors")]
        try:
            for name in names:
                shutil.copyfile(base / name, temporary / name)
            for place, link in links:
                verify_files(place, link.files)
                patch(shards, [place / file.name for file in link.files if file.name.endswith(".safetensors")])
            verify_files(temporary, manifest.results)
            shutil.copyfile(directory / MANIFEST, temporary / MANIFEST)
        except (DeltaError, OSError) as error:
            raise VersionError(f"delta to version {manifest.version}", str(error)) from error
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)

    def _retain(self) -> None:
        for directory in sorted(self._cache.glob("weight_v*"), key=lambda path: int(path.name[8:]))[:-_KEPT]:
            shutil.rmtree(directory, ignore_errors=True)


def _is(target: Path, directory: Path, manifest: manifest_pb2.Manifest) -> bool:
    """Whether the version was rebuilt before and is still whole: an engine may be reading it."""
    try:
        if (target / MANIFEST).read_bytes() != (directory / MANIFEST).read_bytes():
            return False
        verify_files(target, manifest.results)
    except (OSError, VersionError):
        return False
    return True

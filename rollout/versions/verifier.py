"""Verification of published versions against their manifests before an engine may load them.

SGLang loads a damaged or foreign checkpoint without complaint and then answers wrongly, so nothing reaches it unchecked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from leeway.v1 import rollout_pb2
from rollout.versions.adapter_versions import AdapterVersions, adapter_name
from rollout.versions.allowed import AllowedPlaces
from rollout.versions.manifest import (
    FetchError,
    UnreadableError,
    VersionError,
    disk_errors_pass,
    expect,
    read_manifest,
    verify_files,
)
from rollout.versions.node_cache import NodeCache
from rollout.versions.rebuild import Rebuilder
from rollout.versions.source import VersionSource, choices
from runtime.version_format.safetensors_header import HeaderError, read_header

_REBUILT = 2  # versions kept, besides those that other workers of this machine still read
_DOWNLOADED = 3


@dataclass(frozen=True)
class Version:
    """A verified version.

    Attributes:
        number: its version number.
        path: directory of the full version, ready to be loaded; of the adapter alone where there is a name of it.
        adapter: name of the adapter for engines, which no other version has; None for a full version.
    """

    number: int
    path: Path
    adapter: str | None = None


class Verifier:
    """Verifies versions of one model.

    Args:
        model: Hugging Face directory of the initial policy.
        allowed_uris: places that versions may be read from; see AllowedPlaces.
        cache: where versions rebuilt from deltas, adapters merged into the model, and versions copied from other machines
            are kept; the workers of a machine may share it. None refuses them.
        timeout_s: limit of the transfer of one file from another machine.
        wanted: names of the locations to be read from before all others, the most wanted first.
        merges: whether an adapter version is merged into ``model`` here; False: engines load it beside the model.

    Attributes:
        merges: as given; may be changed before the first version is verified.

    Raises:
        VersionError: ``model`` has no readable config.json or safetensors.
        ValueError: one of ``allowed_uris`` is no URI of a directory.
    """

    def __init__(
        self,
        model: Path,
        allowed_uris: Sequence[str],
        cache: Path | None = None,
        timeout_s: float = 1800.0,
        wanted: Sequence[str] = (),
        merges: bool = True,
    ) -> None:
        self._wanted = wanted
        self.merges = merges
        self._allowed = AllowedPlaces(allowed_uris)
        self._cache = NodeCache(cache, _REBUILT) if cache is not None else None
        self._downloads = NodeCache(cache / "downloads", _DOWNLOADED) if cache is not None else None
        self._timeout_s = timeout_s
        self._config_sha256 = hashlib.sha256(_read(model / "config.json")).hexdigest()
        self._shapes = _tensor_shapes(sorted(model.glob("*.safetensors")))
        if not self._shapes:
            raise VersionError("model", f"{model} holds no *.safetensors")
        self._adapters = AdapterVersions(model, self._shapes, self._cache)

    def verify(self, policy: rollout_pb2.Policy) -> Version:
        """Reads every byte of the version, and rebuilds it when it is a delta. Blocks: call it in a thread.

        Raises:
            FetchError: the version could not be read, or not be written to the cache, now; another attempt may succeed.
            VersionError: schema, version, base, sizes, checksums, config or tensors are not what they should be.
        """
        verified: int | None = None
        try:
            found = self._first_that_can_be_read(policy)
            verified = found.number
            return found
        finally:
            for cache in (self._cache, self._downloads):
                if cache is not None:
                    cache.settle(verified)

    def _first_that_can_be_read(self, policy: rollout_pb2.Policy) -> Version:
        failed: FetchError | None = None
        for source in choices(policy, self._allowed, self._downloads, self._timeout_s, self._wanted):
            if failed is not None:
                structlog.get_logger().warning("read from another place", version=policy.version, error=str(failed))
            try:
                with disk_errors_pass("policy.uri"):
                    return self._verify_or_copy_again(policy, source)
            except FetchError as error:
                failed = error
        assert failed is not None, "choices yields one, or raises"
        raise failed

    def _verify_or_copy_again(self, policy: rollout_pb2.Policy, source: VersionSource) -> Version:
        try:
            return self._verify(policy, source)
        except VersionError as error:
            passes = isinstance(error, FetchError) and not isinstance(error, UnreadableError)
            if passes or not source.forget():
                raise
            structlog.get_logger().warning("downloaded again", version=policy.version, error=str(error))
            return self._verify(policy, source)

    def _verify(self, policy: rollout_pb2.Policy, source: VersionSource) -> Version:
        directory = source.directory(policy.version)
        manifest = read_manifest(directory, policy.manifest_sha256)
        expect("manifest.version", manifest.version, policy.version)
        expect("manifest.config_sha256", manifest.config_sha256, self._config_sha256)
        files = manifest.files
        if manifest.HasField("adapter"):
            self._adapters.verify(directory, manifest)
            if not self.merges:
                return Version(manifest.version, directory, adapter_name(manifest.version, policy.manifest_sha256))
            return Version(manifest.version, self._adapters.merge(directory, manifest))
        if manifest.HasField("base_version"):
            if self._cache is None:
                raise VersionError(
                    "manifest.base_version", f"{manifest.base_version}: a delta, and there is no cache_dir"
                )
            directory, files = Rebuilder(self._cache, source).rebuild(directory, manifest), manifest.results
        else:
            verify_files(directory, files)
        self._verify_tensors([directory / file.name for file in files if file.name.endswith(".safetensors")])
        return Version(manifest.version, directory)

    def _verify_tensors(self, files: list[Path]) -> None:
        shapes = _tensor_shapes(files)
        if missing := sorted(self._shapes.keys() - shapes.keys()):
            raise VersionError(f"tensors[{missing[0]}]", f"missing ({len(missing)} of {len(self._shapes)} are)")
        if foreign := sorted(shapes.keys() - self._shapes.keys()):
            raise VersionError(f"tensors[{foreign[0]}]", "not a tensor of the initial model")
        for name, shape in shapes.items():
            expect(f"tensors[{name}].shape", shape, self._shapes[name])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VersionError(path.name, f"cannot be read: {error}") from error


def _tensor_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in ``files``, by name, from the headers alone. Raises VersionError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            shapes |= {name: tensor.shape for name, tensor in read_header(path).tensors.items()}
        except HeaderError as error:
            raise VersionError(f"files[{path.name}]", str(error)) from error
    return shapes

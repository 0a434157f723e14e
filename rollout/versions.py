"""Published versions, verified against their manifest before an engine may load them.

SGLang loads a damaged or foreign checkpoint without complaint and then answers wrongly, so nothing reaches it unchecked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format

from leeway.v1 import manifest_pb2, rollout_pb2

_SCHEMA = 1
_HEADER_LIMIT = 100 << 20  # bytes; safetensors' own limit on its header


class VersionError(Exception):
    """A version that must not be loaded.

    Attributes:
        field: what is wrong, such as "files[model.safetensors].sha256".
        value: what was found, and what was expected.
    """

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field}: {value}")
        self.field = field
        self.value = value


@dataclass(frozen=True)
class Version:
    """A version that passed: number and directory."""

    number: int
    path: Path


class Verifier:
    """Knows the initial model, and verifies versions of it.

    Args:
        model: Hugging Face directory of the initial policy.

    Raises:
        VersionError: that directory itself has no readable config.json or safetensors.
    """

    def __init__(self, model: Path) -> None:
        self._config_sha256 = hashlib.sha256(_read(model / "config.json")).hexdigest()
        self._shapes = _tensor_shapes(sorted(model.glob("*.safetensors")))
        if not self._shapes:
            raise VersionError("model", f"{model} holds no *.safetensors")

    def verify(self, policy: rollout_pb2.Policy) -> Version:
        """Reads every byte of the version once; blocking, so call it in a thread.

        Raises:
            VersionError: schema, version, base, sizes, checksums, config or tensors are not what they should be.
        """
        directory = local_path(policy.uri)
        manifest = _manifest(directory, policy)
        _expect("manifest.schema", manifest.schema, _SCHEMA)
        _expect("manifest.version", manifest.version, policy.version)
        if manifest.HasField("base_version"):
            raise VersionError(
                "manifest.base_version", f"{manifest.base_version}: deltas cannot be loaded, need a full one"
            )
        _expect("manifest.config_sha256", manifest.config_sha256, self._config_sha256)
        for file in manifest.files:
            _verify_file(directory, file)
        self._verify_tensors([directory / file.name for file in manifest.files if file.name.endswith(".safetensors")])
        return Version(manifest.version, directory)

    def _verify_tensors(self, files: list[Path]) -> None:
        shapes = _tensor_shapes(files)
        if missing := sorted(self._shapes.keys() - shapes.keys()):
            raise VersionError(f"tensors[{missing[0]}]", f"missing ({len(missing)} of {len(self._shapes)} are)")
        if foreign := sorted(shapes.keys() - self._shapes.keys()):
            raise VersionError(f"tensors[{foreign[0]}]", "not a tensor of the initial model")
        for name, shape in shapes.items():
            _expect(f"tensors[{name}].shape", shape, self._shapes[name])


def local_path(uri: str) -> Path:
    """The directory behind a file:// URI. Raises VersionError for any other scheme."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise VersionError("policy.uri", f"{uri!r}: this worker reads file:///... only")
    return Path(unquote(parts.path))


def _manifest(directory: Path, policy: rollout_pb2.Policy) -> manifest_pb2.Manifest:
    content = _read(directory / "manifest.json")
    _expect("manifest.json sha256", hashlib.sha256(content).hexdigest(), policy.manifest_sha256)
    try:
        return json_format.Parse(content, manifest_pb2.Manifest(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise VersionError("manifest.json", f"not a manifest: {error}") from error


def _verify_file(directory: Path, file: manifest_pb2.ManifestFile) -> None:
    field = f"files[{file.name}]"
    if not file.name or Path(file.name).name != file.name:
        raise VersionError(field, "a name with path separators")
    path = directory / file.name
    if not path.is_file():
        raise VersionError(field, f"missing in {directory}")
    _expect(f"{field}.size", path.stat().st_size, file.size)
    with path.open("rb") as content:
        _expect(f"{field}.sha256", hashlib.file_digest(content, "sha256").hexdigest(), file.sha256)


def _tensor_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the headers alone: 8 bytes of little-endian length, then JSON."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with path.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if not 0 < length <= _HEADER_LIMIT:
                raise VersionError(f"files[{path.name}]", f"safetensors header of {length} bytes")
            try:
                header = json.loads(content.read(length))
                header.pop("__metadata__", None)
                shapes.update({name: tuple(entry["shape"]) for name, entry in header.items()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise VersionError(f"files[{path.name}]", f"not safetensors: {error!r}") from error
    return shapes


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VersionError(path.name, f"cannot be read: {error}") from error


def _expect(field: str, found: object, expected: object) -> None:
    if found != expected:
        raise VersionError(field, f"{found}, expected {expected}")

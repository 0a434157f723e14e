"""What rank 0 adds to a version once every rank has written its shard: index, config and tokenizer files, manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

from learner.storage.digests import FileDigest, file_digest, make_durable
from leeway.v1 import manifest_pb2
from runtime.version_format.manifest_file import SCHEMA
from runtime.version_format.names import MANIFEST
from runtime.version_format.safetensors_header import HeaderError, read_header

_INDEX = "model.safetensors.index.json"
COMPANIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True)
class ShardFiles:
    """The ranks' files of a version.

    Attributes:
        written: those in the version's directory.
        results: those of the full version that it is or, for a delta, yields.
    """

    written: list[manifest_pb2.ManifestFile]
    results: list[manifest_pb2.ManifestFile]


class ManifestWriter:
    """Completes the directories of versions on rank 0.

    Args:
        model: Hugging Face directory that config and tokenizer files are copied from.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._companions: list[manifest_pb2.ManifestFile] = []  # of the last full version: index, config, tokenizer
        self._config_sha256 = ""  # of the last full version

    def complete(self, directory: Path, manifest: manifest_pb2.Manifest, files: ShardFiles) -> bytes:
        """Writes what is missing of a version and makes it durable.

        Args:
            directory: the version's directory, still under its temporary name.
            manifest: version, step, epoch, dtype and, for a delta, base_version; the other fields are filled in.
            files: what the ranks wrote.

        Returns:
            The content of manifest.json.

        Raises:
            OSError: something cannot be written, or a shard cannot be read.
        """
        full = not manifest.HasField("base_version")
        if full:
            self._write_companions(directory, files)
        manifest.config_sha256 = self._config_sha256
        manifest.files.extend([*files.written, *(self._companions if full else [])])
        manifest.results.extend([] if full else [*files.results, *self._companions])
        content = write_manifest(directory, manifest)
        make_durable([directory, *(directory / file.name for file in self._companions if full)])
        return content

    def _write_companions(self, directory: Path, files: ShardFiles) -> None:
        self._companions = [_write_index(directory, [file.name for file in files.written])]
        for name in COMPANIONS:
            if (self._model / name).is_file():
                shutil.copyfile(self._model / name, directory / name)
                self._companions.append(manifest_entry(name, file_digest(directory / name)))
        self._config_sha256 = hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()


def write_manifest(directory: Path, manifest: manifest_pb2.Manifest) -> bytes:
    """Fills in schema and time of a manifest, and writes and syncs manifest.json; returns its content. Raises OSError."""
    manifest.schema = SCHEMA
    manifest.published_at.GetCurrentTime()
    content = json_format.MessageToJson(manifest, preserving_proto_field_name=True).encode()
    (directory / MANIFEST).write_bytes(content)
    make_durable([directory / MANIFEST])
    return content


def manifest_entry(name: str, found: FileDigest) -> manifest_pb2.ManifestFile:
    """The manifest's entry of a file."""
    return manifest_pb2.ManifestFile(name=name, size=found.size, digest=found.digest)


def _write_index(directory: Path, files: list[str]) -> manifest_pb2.ManifestFile:
    try:
        file_of = {tensor: file for file in files for tensor in read_header(directory / file).tensors}
    except HeaderError as error:
        raise OSError(f"{directory}: a shard that was just written cannot be read: {error}") from error
    path = directory / _INDEX
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict(sorted(file_of.items()))}, indent=1))
    return manifest_entry(_INDEX, file_digest(path))

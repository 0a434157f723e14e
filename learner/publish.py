"""Publication: policy versions as Hugging Face directories that fleets can trust.

Every rank that owns a shard writes it itself, from a host snapshot, while training goes on. Order, so that a reader never
sees half a version: shards, index, config and tokenizer, manifest; fsync; rename; pointer file; registration in the queue.
A learner that has been replaced can neither rename nor remove anything: see learner.claim.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from google.protobuf import json_format
from safetensors.torch import save_file

from learner.claim import Claim, sync_directory
from learner.config import PublishConfig
from leeway.v1 import manifest_pb2, rollout_pb2

POINTER = "latest"
MANIFEST = "manifest.json"
_INDEX = "model.safetensors.index.json"
_PASSED_ON = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")  # fmt: skip

Shard = Sequence[tuple[str, torch.Tensor]]


class Registry(Protocol):
    """Rank 0's side of a publication: whom to tell, and what must not be removed."""

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        """A version is complete on disk: make it known to the fleets."""
        ...

    def not_published(self, version: int, error: Exception) -> None:
        """A version could not be written; the one before it stays current."""
        ...

    def in_use(self) -> set[int]:
        """Versions that fleets run."""
        ...


def version_name(version: int) -> str:
    """``weight_v000012``: the layout slime and miles read."""
    return f"weight_v{version:06d}"


def versions_on_disk(root: Path) -> list[int]:
    """Versions under their final names, orphans too, in order."""
    found = (re.fullmatch(r"weight_v(\d{6,})", path.name) for path in root.glob("weight_v*"))
    return sorted(int(match.group(1)) for match in found if match)


class Publisher:
    """Publishes versions in the background, one at a time. Every rank makes one and calls it in step.

    Args:
        config: precision, retention.
        claim: on the directory of versions; taken on rank 0 before.
        model: where config and tokenizer files come from.
        next_version: number of the first version; the same on every rank.
        registry: rank 0 only, None elsewhere.
    """

    def __init__(
        self, config: PublishConfig, claim: Claim, model: Path, next_version: int, registry: Registry | None
    ) -> None:
        self.next_version = next_version
        self._config = config
        self._claim = claim
        self._model = model
        self._registry = registry
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        self._group = group
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        dist.barrier(group=self._group)

    @property
    def version(self) -> int:
        """The newest version handed to publication; -1 before the first."""
        return self.next_version - 1

    def publish(self, step: int, shard: Shard) -> None:
        """Starts publishing the weights after ``step``; waits for the publication before it. Collective.

        Args:
            step: optimizer steps that went into the weights.
            shard: (Hugging Face name, full tensor) pairs this rank writes; empty on ranks that write nothing. The tensors
                must be a snapshot: they are read after this returns.
        """
        self.wait()
        version = self.next_version
        self.next_version += 1
        self._thread = threading.Thread(target=self._run, args=(version, step, shard), name=f"publish-{version}")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the publication under way, if any.

        Raises:
            Exception: what the registry raised: the version is on disk and no fleet knows it (rank 0).
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, version: int, step: int, shard: Shard) -> None:
        started = time.monotonic()
        name = version_name(version)
        failure: OSError | None = None
        written = None
        try:
            written = self._write_shard(self._claim.path(name), shard)
        except OSError as error:
            failure = error
        shards = self._collect(written, failed=failure is not None)
        if self._registry is None:
            return
        try:
            if shards is None:
                raise failure or OSError("another rank could not write its shard")
            policy = self._finish(name, version, step, shards)
        except OSError as error:
            self._claim.discard(name)
            self._registry.not_published(version, error)
            return
        try:
            self._registry.published(policy, time.monotonic() - started)
            self._retain(version)
        except Exception as error:  # noqa: BLE001 - the end of this thread; wait() raises it in the loop
            self._failure = error

    def _write_shard(self, directory: Path, shard: Shard) -> tuple[str, int, bytes] | None:
        if not shard:
            return None
        directory.mkdir(exist_ok=True)  # without parents: a replaced learner's room must not come back
        name = f"model-{dist.get_rank():05d}.safetensors"
        dtype = getattr(torch, self._config.dtype)
        tensors = {key: tensor.to(dtype).contiguous() for key, tensor in shard}
        save_file(tensors, directory / name, metadata={"format": "pt"})
        size, digest = _seal(directory / name)
        return name, size, digest

    def _collect(self, written: tuple[str, int, bytes] | None, failed: bool) -> list[manifest_pb2.ManifestFile] | None:
        """Every rank's file, size and digest, known to every rank; None when a rank failed."""
        mine = torch.zeros(34, dtype=torch.int64)  # [failed, size, 32 bytes of digest]
        mine[0] = int(failed)
        if written is not None:
            mine[1] = written[1]
            mine[2:] = torch.tensor(list(written[2]))
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine, group=self._group)
        if any(row[0] for row in everyone):
            return None
        return [
            manifest_pb2.ManifestFile(
                name=f"model-{rank:05d}.safetensors", size=int(row[1]), sha256=bytes(row[2:].tolist()).hex()
            )
            for rank, row in enumerate(everyone)
            if row[1]
        ]

    def _finish(
        self, name: str, version: int, step: int, shards: list[manifest_pb2.ManifestFile]
    ) -> rollout_pb2.Policy:
        temporary = self._claim.path(name)
        files = [*shards, _write_index(temporary, [item.name for item in shards])]
        for file in _PASSED_ON:
            if (self._model / file).is_file():
                shutil.copyfile(self._model / file, temporary / file)
                size, digest = _seal(temporary / file)
                files.append(manifest_pb2.ManifestFile(name=file, size=size, sha256=digest.hex()))
        manifest = manifest_pb2.Manifest(
            schema=1,
            version=version,
            step=step,
            epoch=self._claim.epoch,
            dtype=self._config.dtype,
            config_sha256=next(item.sha256 for item in files if item.name == "config.json"),
            files=files,
        )
        manifest.published_at.GetCurrentTime()
        (temporary / MANIFEST).write_text(json_format.MessageToJson(manifest, preserving_proto_field_name=True))
        _, digest = _seal(temporary / MANIFEST)
        sync_directory(temporary)
        final = self._claim.put(name, name)
        self._claim.put_text(POINTER, str(version))
        policy = rollout_pb2.Policy(
            version=version,
            step=step,
            epoch=self._claim.epoch,
            uri=final.resolve().as_uri(),
            manifest_sha256=digest.hex(),
        )
        policy.published_at.CopyFrom(manifest.published_at)
        return policy

    def _retain(self, newest: int) -> None:
        """Removes what is older than the newest few, unless a fleet runs it or it is kept for good."""
        assert self._registry is not None
        in_use = self._registry.in_use()
        try:
            for version in versions_on_disk(self._claim.root):
                for_good = self._config.keep_every and version % self._config.keep_every == 0
                if version <= newest - self._config.keep and version not in in_use and not for_good:
                    self._claim.remove(version_name(version))
        except FileNotFoundError:
            return  # superseded: what is kept is the newer learner's business


def _seal(path: Path) -> tuple[int, bytes]:
    """Makes a file durable; returns its size in bytes and SHA-256."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        os.fsync(file.fileno())
        return file.tell(), digest


def _write_index(directory: Path, names: list[str]) -> manifest_pb2.ManifestFile:
    weights: dict[str, str] = {}
    for name in names:
        weights |= dict.fromkeys(_tensor_names(directory / name), name)
    path = directory / _INDEX
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict(sorted(weights.items()))}, indent=1))
    size, digest = _seal(path)
    return manifest_pb2.ManifestFile(name=_INDEX, size=size, sha256=digest.hex())


def _tensor_names(path: Path) -> list[str]:
    """Names in a safetensors file, from its header: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]

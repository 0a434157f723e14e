"""Publication: policy versions as Hugging Face directories that fleets can trust.

Every rank that owns a shard writes it itself, from a host snapshot, while training goes on. Order, so that a reader never
sees half a version: shards, index, config and tokenizer, manifest; fsync; rename; pointer file; registration in the queue.
A learner that has been replaced can neither rename nor remove anything: see learner.storage.fence.

With ``full_every`` n only every n-th version is whole; those between hold what changed since the version before them
(learner.publish.delta), and say what applying them yields. The first version of a learner, and the one after a failed
publication, are whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import torch
import torch.distributed as dist
from google.protobuf import json_format

from learner.config import PublishConfig
from learner.publish.catalog import MANIFEST, POINTER, pinned, version_name, versions_on_disk, with_bases
from learner.publish.mirror import Mirror
from learner.publish.safetensors_file import names
from learner.publish.shard_writer import Shard, ShardWriter, delta_file, model_file
from learner.storage.digests import ROW, FileDigest, file_digest, make_durable, of_row, to_row
from learner.storage.fence import DirectoryFence, SupersededError
from leeway.v1 import manifest_pb2, rollout_pb2

_SCHEMA = 2
_INDEX = "model.safetensors.index.json"
_PASSED_ON = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")  # fmt: skip
_FULL = -1  # the base of a version that has none, in a collective


class PublicationCallbacks(Protocol):
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


@dataclass(frozen=True)
class _Files:
    """The ranks' files of a version: those written, and those of the full version that they are or yield."""

    written: list[manifest_pb2.ManifestFile]
    results: list[manifest_pb2.ManifestFile]


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
        self,
        config: PublishConfig,
        fence: DirectoryFence,
        model: Path,
        next_version: int,
        registry: PublicationCallbacks | None,
    ) -> None:
        self.next_version = next_version
        self._config = config
        self._fence = fence
        self._model = model
        self._registry = registry
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        self._group = group
        self._thread: threading.Thread | None = None
        self._mirror = Mirror(config.url, config.url_options, fence) if registry is not None and config.url else None
        self._failure: Exception | None = None
        self._writer = ShardWriter(dist.get_rank(), config.dtype, deltas=config.full_every > 1)
        self._previous: int | None = None  # rank 0: published without a failure since
        self._deltas = 0  # rank 0: since the last full version
        self._companions: list[manifest_pb2.ManifestFile] = []  # of the last full version: index, config, tokenizer
        self._config_sha256 = ""  # of the same
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
        arguments = (version, step, shard)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"publish-{version}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Waits for the publication under way, if any.

        Args:
            timeout_s: after so long it is given up, for the end of the process to cut short: the version before it stays
                current, and what was written of it goes when the next learner takes over.

        Raises:
            SupersededError: a newer learner has taken over (rank 0).
            Exception: what the registry raised: the version is on disk and no fleet knows it (rank 0).
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                structlog.get_logger().warning("publication given up: no time left", version=self.version)
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, version: int, step: int, shard: Shard) -> None:
        started = time.monotonic()
        name = version_name(version)
        base = self._base()
        failure: OSError | None = None
        digests: tuple[FileDigest | None, FileDigest | None] = (None, None)
        try:
            digests = self._writer.write(self._fence.path(name), version, shard, base)
        except OSError as error:
            failure = error
        files = self._collect(*digests, failed=failure is not None, delta=base is not None)
        if self._registry is None:
            return
        self._previous = None
        try:
            if files is None:
                raise failure or OSError("another rank could not write its shard")
            policy = self._finish(version, step, base, files)
        except OSError as error:
            self._fence.discard(name)
            self._registry.not_published(version, error)
            return
        except SupersededError as error:
            self._failure = error
            return
        self._previous = version
        self._deltas = self._deltas + 1 if base is not None else 0
        try:
            self._registry.published(policy, time.monotonic() - started)
            self._retain(version)
        except Exception as error:  # noqa: BLE001 - the end of this thread; wait() raises it in the loop
            self._failure = error

    def _base(self) -> int | None:
        """What this version is a delta of, rank 0's word for it. Collective, unless every version is full."""
        if self._config.full_every == 1:
            return None
        whole = self._previous is None or self._deltas + 1 >= self._config.full_every
        base = torch.tensor([_FULL if whole else self._previous])
        dist.broadcast(base, src=0, group=self._group)
        return None if base.item() == _FULL else int(base.item())

    def _collect(
        self, written: FileDigest | None, result: FileDigest | None, failed: bool, delta: bool
    ) -> _Files | None:
        """Every rank's files, known to every rank; None when a rank failed."""
        mine = torch.tensor([int(failed), *to_row(written), *to_row(result)])
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine, group=self._group)
        if any(row[0] for row in everyone):
            return None
        files = _Files([], [])
        for rank, row in enumerate(everyone):
            digests = of_row(row[1 : 1 + ROW].tolist()), of_row(row[1 + ROW :].tolist())
            called = delta_file(rank) if delta else model_file(rank), model_file(rank)
            for target, name, found in zip((files.written, files.results), called, digests, strict=True):
                if found is not None:
                    target.append(_entry(name, found))
        return files

    def _finish(self, version: int, step: int, base: int | None, files: _Files) -> rollout_pb2.Policy:
        name = version_name(version)
        temporary = self._fence.path(name)
        if base is None:
            self._companions = [_write_index(temporary, [item.name for item in files.written])]
            for file in _PASSED_ON:
                if (self._model / file).is_file():
                    shutil.copyfile(self._model / file, temporary / file)
                    self._companions.append(_entry(file, file_digest(temporary / file)))
            self._config_sha256 = hashlib.sha256((temporary / "config.json").read_bytes()).hexdigest()
        manifest = manifest_pb2.Manifest(
            schema=_SCHEMA,
            version=version,
            step=step,
            epoch=self._fence.epoch,
            dtype=self._config.dtype,
            base_version=base,
            config_sha256=self._config_sha256,
            files=[*files.written, *(self._companions if base is None else [])],
            results=[*files.results, *self._companions] if base is not None else [],
        )
        manifest.published_at.GetCurrentTime()
        content = json_format.MessageToJson(manifest, preserving_proto_field_name=True).encode()
        (temporary / MANIFEST).write_bytes(content)
        fresh = [MANIFEST, *(item.name for item in self._companions if base is None)]
        make_durable([temporary, *(temporary / name for name in fresh)])
        final = self._fence.put(name, name)
        self._fence.put_text(POINTER, str(version))
        policy = rollout_pb2.Policy(
            version=version,
            step=step,
            epoch=self._fence.epoch,
            uri=self._mirror.put(version) if self._mirror else final.resolve().as_uri(),
            manifest_sha256=hashlib.sha256(content).hexdigest(),
        )
        policy.published_at.CopyFrom(manifest.published_at)
        return policy

    def _retain(self, newest: int) -> None:
        """Removes what is older than the newest few, unless a fleet runs it, someone or something keeps it for good, or a
        version that stays is a delta of it."""
        assert self._registry is not None
        root, config = self._fence.root, self._config
        in_use = self._registry.in_use() | pinned(root)
        there = versions_on_disk(root)
        kept = {
            version
            for version in there
            if version > newest - config.keep
            or version in in_use
            or (config.keep_every and version % config.keep_every == 0)
        }
        if config.full_every > 1:
            kept = with_bases(root, kept)
        try:
            for version in there:
                if version not in kept:
                    self._fence.remove(version_name(version))
            if self._mirror is not None:
                self._mirror.retain(kept, newest)
        except FileNotFoundError:
            return  # superseded: what is kept is the newer learner's business
        except OSError as error:
            structlog.get_logger().warning("old versions not removed; tried again after the next", error=str(error))


def _entry(name: str, found: FileDigest) -> manifest_pb2.ManifestFile:
    return manifest_pb2.ManifestFile(name=name, size=found.size, digest=found.digest)


def _write_index(directory: Path, files: list[str]) -> manifest_pb2.ManifestFile:
    weights = {name: file for file in files for name in names(directory / file)}
    path = directory / _INDEX
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict(sorted(weights.items()))}, indent=1))
    return _entry(_INDEX, file_digest(path))

"""Publication of policy versions in the background, as Hugging Face directories whose every file can be verified.

Every rank that owns a shard writes it itself, from a host snapshot, while training goes on. Order, so that a reader never
sees half a version: shards, index, config and tokenizer, manifest; fsync; rename; pointer file; registration in the queue.
A learner that has been replaced can neither rename nor remove anything: see learner.storage.fence.

With ``full_every`` n only every n-th version is full; those between store what changed since the version before them
(learner.publish.delta_writer), and their manifests say what applying them yields. The first version of a learner, and the
one after a failed publication, are full.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Protocol

import structlog
import torch
import torch.distributed as dist

from learner.config import PublishConfig
from learner.publish.catalog import POINTER
from learner.publish.manifest_writer import ManifestWriter, ShardFiles, manifest_entry
from learner.publish.mirror import Mirror
from learner.publish.retention import remove_expired
from learner.publish.shard_writer import Shard, ShardWriter, delta_file, model_file
from learner.storage.digests import ROW, FileDigest, of_row, to_row
from learner.storage.fence import DirectoryFence, SupersededError
from leeway.v1 import manifest_pb2, rollout_pb2
from runtime.version_format.names import version_name

_FULL = -1  # stands for "no base" in a collective


class PublicationCallbacks(Protocol):
    """What the publisher needs of the rest of rank 0."""

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        """Makes a version, now complete on disk, known to the fleets. ``seconds``: how long the publication took."""
        ...

    def not_published(self, version: int, error: Exception) -> None:
        """Records that a version could not be written; the one before it stays current."""
        ...

    def in_use(self) -> set[int]:
        """Versions that must not be removed: fleets run them, or training still needs them."""
        ...


class Publisher:
    """Publishes versions in the background, one at a time. Every rank makes one and calls it in step.

    Args:
        config: directory, dtype, retention and mirror of versions.
        fence: fence of the directory of versions; rank 0 has acquired it before.
        model: Hugging Face directory that config and tokenizer files are copied from.
        next_version: number of the first version; equal on every rank.
        callbacks: rank 0 only, None elsewhere.
    """

    def __init__(
        self,
        config: PublishConfig,
        fence: DirectoryFence,
        model: Path,
        next_version: int,
        callbacks: PublicationCallbacks | None,
    ) -> None:
        self.next_version = next_version
        self._config = config
        self._fence = fence
        self._callbacks = callbacks
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        self._group = group
        self._thread: threading.Thread | None = None
        self._mirror = Mirror(config.url, config.url_options, fence) if callbacks is not None and config.url else None
        self._failure: Exception | None = None
        self._writer = ShardWriter(dist.get_rank(), config.dtype, deltas=config.full_every > 1)
        self._manifests = ManifestWriter(model)
        self._previous: int | None = None  # rank 0: the version published last, None after a failure
        self._deltas = 0  # rank 0: deltas since the last full version
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
            timeout_s: seconds after which it is given up, to be cut short by the end of the process: the version before it
                stays current, and what was written of it is removed when the next learner takes over.

        Raises:
            SupersededError: a newer learner has taken over (rank 0).
            Exception: what the callbacks raised: the version is on disk and no fleet knows it (rank 0).
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
            digests = self._writer.write(self._fence.staging_path(name), version, shard, base)
        except OSError as error:
            failure = error
        files = self._collect(*digests, failed=failure is not None, delta=base is not None)
        if self._callbacks is None:
            return
        self._previous = None
        try:
            if files is None:
                raise failure or OSError("another rank could not write its shard")
            policy = self._finish(version, step, base, files)
        except OSError as error:
            self._fence.discard_staged(name)
            self._callbacks.not_published(version, error)
            return
        except SupersededError as error:
            self._failure = error
            return
        self._previous = version
        self._deltas = self._deltas + 1 if base is not None else 0
        try:
            self._callbacks.published(policy, time.monotonic() - started)
            self._retain(version)
        except Exception as error:  # noqa: BLE001 - the end of this thread; wait() raises it in the loop
            self._failure = error

    def _base(self) -> int | None:
        """Base of this version as rank 0 decides it; None for a full one. Collective, unless every version is full."""
        if self._config.full_every == 1:
            return None
        full = self._previous is None or self._deltas + 1 >= self._config.full_every
        base = torch.tensor([_FULL if full else self._previous])
        dist.broadcast(base, src=0, group=self._group)
        return None if base.item() == _FULL else int(base.item())

    def _collect(
        self, written: FileDigest | None, result: FileDigest | None, failed: bool, delta: bool
    ) -> ShardFiles | None:
        """Gathers every rank's files on every rank; None when a rank could not write its shard. Collective."""
        mine = torch.tensor([int(failed), *to_row(written), *to_row(result)])
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine, group=self._group)
        if any(row[0] for row in everyone):
            return None
        files = ShardFiles([], [])
        for rank, row in enumerate(everyone):
            digests = of_row(row[1 : 1 + ROW].tolist()), of_row(row[1 + ROW :].tolist())
            names = delta_file(rank) if delta else model_file(rank), model_file(rank)
            for target, name, found in zip((files.written, files.results), names, digests, strict=True):
                if found is not None:
                    target.append(manifest_entry(name, found))
        return files

    def _finish(self, version: int, step: int, base: int | None, files: ShardFiles) -> rollout_pb2.Policy:
        """Completes the version on rank 0 and makes it visible; returns its announcement."""
        name, epoch = version_name(version), self._fence.epoch
        manifest = manifest_pb2.Manifest(
            version=version, step=step, epoch=epoch, dtype=self._config.dtype, base_version=base
        )
        content = self._manifests.complete(self._fence.staging_path(name), manifest, files)
        final = self._fence.commit(name, name)
        self._fence.replace_text(POINTER, str(version))
        policy = rollout_pb2.Policy(
            version=version,
            step=step,
            epoch=epoch,
            uri=self._mirror.put(version) if self._mirror else final.resolve().as_uri(),
            manifest_sha256=hashlib.sha256(content).hexdigest(),
        )
        policy.published_at.CopyFrom(manifest.published_at)
        return policy

    def _retain(self, newest: int) -> None:
        assert self._callbacks is not None
        in_use = self._callbacks.in_use()
        try:
            remove_expired(self._fence, self._mirror, self._config, newest, in_use)
        except FileNotFoundError:
            return  # a newer learner has taken over: what is kept is its decision
        except OSError as error:
            structlog.get_logger().warning("old versions not removed; tried again after the next", error=str(error))

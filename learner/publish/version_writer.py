"""One version, written by all ranks together: shards, index, config and tokenizer files, manifest, then the mirrors' copies.

Every rank writes its own shard and copies it to the mirrors, all at the same time; rank 0 does the rest. Order, so that a
reader never sees half a version: shards; manifest; fsync; rename; pointer file; in each mirror shards, other files, manifest,
pointer. It is announced once, with the places that have it by then; mirrors that failed or were too slow are left out
(learner.publish.mirrors). A learner that has been replaced can neither rename nor remove anything: see
learner.storage.fence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import structlog

from learner.config import LoraConfig, PublishConfig
from learner.config.mirror import LOCAL
from learner.publish.adapter_manifest import AdapterManifestWriter
from learner.publish.catalog import POINTER
from learner.publish.coalescing import Snapshot
from learner.publish.manifest_writer import ManifestWriter, ShardFiles, manifest_entry
from learner.publish.mirrors import MirrorOutcome, Mirrors
from learner.publish.rank_group import RankGroup
from learner.publish.shard_writer import ShardWriter, adapter_file, delta_file, model_file
from learner.storage.digests import ROW, FileDigest, of_row, to_row
from learner.storage.fence import DirectoryFence
from leeway.v1 import manifest_pb2, rollout_pb2
from runtime.version_format.names import version_name


class VersionWriter:
    """Writes versions, one after the other. Every rank has one.

    Args:
        config: dtype and form, and how often a version is full.
        fence: fence of the directory of versions; rank 0 has acquired it before.
        model: Hugging Face directory that config and tokenizer files are copied from.
        group: the ranks.
        mirrors: the copies elsewhere.
        lora: of the adapters, where they are what is published.

    Attributes:
        outcomes: rank 0: what became of the last version in each mirror.
    """

    def __init__(
        self,
        config: PublishConfig,
        fence: DirectoryFence,
        model: Path,
        group: RankGroup,
        mirrors: Mirrors,
        lora: LoraConfig | None = None,
    ) -> None:
        self._config = config
        self._fence = fence
        self._group = group
        self._mirrors = mirrors
        self.outcomes: list[MirrorOutcome] = []
        adapters = lora if config.form == "adapter" else None
        self._full_file = model_file if adapters is None else adapter_file
        deltas = config.full_every > 1
        self._shards = ShardWriter(group.rank, config.weights_dtype, deltas, self._full_file(group.rank))
        self._manifests = ManifestWriter(model) if adapters is None else AdapterManifestWriter(model, adapters)
        self._previous: int | None = None  # rank 0: the version published last, None after a failure
        self._deltas = 0  # rank 0: deltas since the last full version

    def write(self, snapshot: Snapshot) -> rollout_pb2.Policy | None:
        """Writes a version wherever it goes. Collective.

        Returns:
            On rank 0, the version's announcement; None elsewhere.

        Raises:
            OSError: on rank 0: the version could not be written, by whatever rank. The next one is full.
            SupersededError: on rank 0: a newer learner has taken over.
        """
        base = self._base()
        self._previous = None
        files = self._write_shards(snapshot, base)
        policy = self._complete(snapshot, base, files)
        self.outcomes = self._copy(snapshot.version, files, policy)
        if self._group.rank:
            return None
        if isinstance(policy, OSError):
            raise policy
        assert policy is not None
        copies = [rollout_pb2.Location(name=one.mirror, uri=one.uri) for one in self.outcomes if one.uri is not None]
        policy.locations.extend(copies)
        policy.uri = copies[0].uri if copies else policy.uri
        self._previous = snapshot.version
        self._deltas = self._deltas + 1 if base is not None else 0
        return policy

    def _base(self) -> int | None:
        """Base of this version as rank 0 decides it; None for a full one. Collective, unless every version is full."""
        if self._config.full_every == 1:
            return None
        full = self._previous is None or self._deltas + 1 >= self._config.full_every
        return self._group.agree_number(None if full else self._previous)

    def _write_shards(self, snapshot: Snapshot, base: int | None) -> ShardFiles | OSError:
        """Writes this rank's shard; returns every rank's files, or why there is no version. Collective."""
        failure: OSError | None = None
        digests: tuple[FileDigest | None, FileDigest | None] = (None, None)
        path = self._fence.staging_path(version_name(snapshot.version))
        try:
            digests = self._shards.write(path, snapshot.version, snapshot.source, base)
        except OSError as error:
            failure = error
        rows = self._group.gather([int(failure is not None), *to_row(digests[0]), *to_row(digests[1])])
        if any(row[0] for row in rows):
            return self._failed("its shard", failure)
        files = ShardFiles([], [])
        for rank, row in enumerate(rows):
            found = of_row(row[1 : 1 + ROW]), of_row(row[1 + ROW :])
            full = self._full_file(rank)
            names = full if base is None else delta_file(rank), full
            for target, name, digest in zip((files.written, files.results), names, found, strict=True):
                if digest is not None:
                    target.append(manifest_entry(name, digest))
        return files

    def _complete(
        self, snapshot: Snapshot, base: int | None, files: ShardFiles | OSError
    ) -> rollout_pb2.Policy | OSError | None:
        """Completes the version on rank 0 and makes it visible; returns its announcement, or why there is none."""
        if self._group.rank:
            return None
        name = version_name(snapshot.version)
        try:
            if isinstance(files, OSError):
                raise files
            manifest = manifest_pb2.Manifest(
                version=snapshot.version,
                step=snapshot.step,
                epoch=self._fence.epoch,
                dtype=self._config.weights_dtype,
                base_version=base,
            )
            content = self._manifests.complete(self._fence.staging_path(name), manifest, files)
            final = self._fence.commit(name, name)
            self._fence.replace_text(POINTER, str(snapshot.version))
        except OSError as error:
            self._fence.discard_staged(name)
            return error
        uri = final.resolve().as_uri()
        policy = rollout_pb2.Policy(
            version=snapshot.version,
            step=snapshot.step,
            epoch=self._fence.epoch,
            uri=uri,
            manifest_sha256=hashlib.sha256(content).hexdigest(),
            locations=[rollout_pb2.Location(name=LOCAL, uri=uri)],
        )
        policy.published_at.CopyFrom(manifest.published_at)
        return policy

    def _copy(
        self, version: int, files: ShardFiles | OSError, policy: rollout_pb2.Policy | OSError | None
    ) -> list[MirrorOutcome]:
        """Copies a version to the mirrors if it is complete on disk. Collective."""
        (complete,) = self._group.agree([int(isinstance(policy, rollout_pb2.Policy))])
        if not complete or isinstance(files, OSError):
            return []
        shards = {file.name for file in files.written}
        own = shards & {self._full_file(self._group.rank), delta_file(self._group.rank)}
        return self._mirrors.copy(version, shards, own)

    def _failed(self, what: str, failure: OSError | None) -> OSError:
        """What rank 0 is told of a failure on some rank; a rank that failed logs its own."""
        if failure is not None and self._group.rank:
            structlog.get_logger().error(
                "this rank could not write its part of a version", part=what, error=str(failure)
            )
        return failure or OSError(f"another rank could not write {what}: its log says why")

"""The manifest of a backup: what it is of, and size and digest of every file. Without it, written last, there is none."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from learner.backup.errors import BackupError
from learner.backup.store import BackupStore
from learner.queue.witness import Witness
from learner.storage.digests import FileDigest

MANIFEST = "MANIFEST.json"
QUEUE = "queue/"  # what was in Redis; the other names are those of a run's directory
CHECKPOINTS, WEIGHTS, METRICS = "checkpoints/", "weights/", "metrics/"
SCHEMA = 1
_NAME = re.compile(r"backup-\d{8}T\d{9}Z-[0-9a-f]{8}")


@dataclass(frozen=True)
class BackupManifest:
    """Content of ``MANIFEST.json``.

    Attributes:
        run: name of the run's keys in Redis.
        created: Unix seconds at which Redis was read.
        checkpoint: name of the checkpoint that Redis' data belongs to.
        step: optimizer steps in that checkpoint.
        witness: numbers of Redis' data (learner.queue.witness), as JSON values.
        queued: fleet -> groups that wait.
        weights_uri: URI of the directory of versions that Redis' data names.
        files: size and digest of every file, by its name in the backup.
        left_out: what a run can do without and is not there: name -> why.
    """

    run: str
    created: float
    checkpoint: str
    step: int
    witness: dict[str, Any]
    queued: dict[str, int]
    weights_uri: str
    files: dict[str, FileDigest] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> Witness:
        """The numbers of Redis' data."""
        return Witness.of(self.witness)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def account(self) -> str:
        """What of the run's groups is in the backup, in words."""
        seen = self.seen
        return (
            f"step {self.step}, {sum(seen.accepted.values()):,} groups accepted, {sum(seen.trained.values()):,} trained, "
            f"{sum(self.queued.values()):,} waiting"
        )

    def write(self, store: BackupStore) -> None:
        """Writes the manifest into the backup, which is complete then. Raises OSError."""
        content = {"schema": SCHEMA, **asdict(self)}
        store.put(MANIFEST, json.dumps({"backup": content, "sha256": _digest(content)}, indent=1).encode())


def read_manifest(store: BackupStore) -> BackupManifest:
    """Reads a backup's manifest. Raises BackupError: it is missing, damaged, of another schema, or cannot be read now."""
    where = f"{store.uri}/{MANIFEST}"
    try:
        values = json.loads(store.get(MANIFEST))
        content: Mapping[str, Any] = values["backup"]
        if content["schema"] != SCHEMA:
            raise BackupError(f"{where}: schema {content['schema']}, this version of leeway reads {SCHEMA}")
        if _digest(content) != values["sha256"]:
            raise BackupError(f"{where}: damaged (its content does not match its SHA-256): use another backup")
        fields = {name: value for name, value in content.items() if name != "schema"}
        files = {name: FileDigest(**entry) for name, entry in content["files"].items()}
        return BackupManifest(**{**fields, "files": files})
    except OSError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise BackupError(
                f"{where}: cannot be read now ({error}): see that the place answers, and try again"
            ) from error
        raise BackupError(f"{where}: no manifest of a complete backup: name another one") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{where}: no manifest of a complete backup ({type(error).__name__}: {error})") from error


def new_name() -> str:
    """Name of a backup that begins now: names sort by time."""
    now = time.time()
    return (
        f"backup-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}{int(1000 * now) % 1000:03d}Z-{secrets.token_hex(4)}"
    )


def backups_in(store: BackupStore) -> list[str]:
    """Names of the backups under a prefix, complete or not, oldest first. Raises OSError."""
    return [name for name in store.names() if _NAME.fullmatch(name)]


def newest_backup(store: BackupStore) -> BackupStore:
    """The backup at a URI, or the newest complete one under it. Raises BackupError when there is none."""
    try:
        if store.exists(MANIFEST):
            return store
        for name in reversed(backups_in(store)):
            if store.exists(f"{name}/{MANIFEST}"):
                return store.below(name)
    except OSError as error:
        raise BackupError(f"{store.uri}: {error}") from error
    raise BackupError(
        f"{store.uri}: there is no complete backup (no {MANIFEST}): one that was cut off cannot be restored"
    )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""A run in a directory of this machine, as commands see it: its files, and its Redis, started for them if need be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from learner.cli.operate import publications
from learner.cli.operate.operations import RecountReport, SettledChange
from learner.cli.operate.replay import limits_of
from learner.cli.operate.rollback import roll_back
from learner.cli.operate.status import print_status
from learner.cli.operate.version_rows import VersionRow, worth_of
from learner.cli.run.evaluations import Evaluation, read_evaluations
from learner.cli.run.identities import add_fleet, fleets_of, revoke_fleet
from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.view.ledger import of_fleet, recount_lines, recount_of, recount_row
from learner.config import QueueConfig
from learner.gateway.auth import Role
from learner.gateway.quarantine_replay import chosen, leaves, replay
from learner.publish.catalog import PINNED, POINTER, CatalogError, pinned, read_manifest
from learner.queue import ledgers_in
from learner.queue.change_journal import ChangeJournal
from learner.queue.errors import NeverStartedError
from learner.queue.identity_registry import IdentityRegistry
from learner.queue.quarantine import Quarantine, Quarantined
from learner.queue.versions_in_use import VersionsInUse
from leeway.v1 import manifest_pb2, operator_pb2, rollout_pb2
from runtime.version_format.names import version_name, versions_on_disk


class LocalRun:
    """A run in a directory; use it as a context manager. See Operations.

    Args:
        directory: the run's.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._run = directory
        self._open = contextlib.ExitStack()
        self._config: QueueConfig | None = None

    def __enter__(self) -> LocalRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show_status(self, console: Console) -> None:
        """Prints the run's numbers and processes, its ledgers and evaluations."""
        print_status(console, self._run)

    def ledgers(self, fleet: str | None) -> list[rollout_pb2.Ledger]:
        """Returns each fleet's ledger, or that of one fleet."""
        return of_fleet(ledgers_in(self._queue()), fleet, str(self._run.root))

    def recount(self) -> RecountReport:
        """Counts the ledgers again, from Redis and the checkpoints."""
        found = recount_of(self._run)
        return RecountReport(recount_lines(found), recount_row(found), len(found.discrepancies))

    def quarantined(self, keys: Sequence[str], fleet: str | None) -> list[Quarantined]:
        """Returns groups of the quarantine, newest first."""
        with Quarantine(self._queue()) as kept:
            return chosen(kept.entries(), keys, fleet)

    def replay(self, keys: Sequence[str], fleet: str | None) -> list[operator_pb2.ReplayedGroup]:
        """Submits groups of the quarantine again, under the limits of the run's gateway."""
        limits = limits_of(self._run)
        outcomes = asyncio.run(replay(self._queue(), limits, self.quarantined(keys, fleet)))
        return [operator_pb2.ReplayedGroup(key=key, left=leaves(outcome), outcome=outcome) for key, outcome in outcomes]

    def purge(self, keys: Sequence[str], fleet: str | None) -> int:
        """Deletes groups of the quarantine."""
        with Quarantine(self._queue()) as kept:
            everything = not keys and fleet is None
            return kept.purge() if everything else kept.remove(chosen(kept.entries(), keys, fleet))

    def identities(self) -> list[operator_pb2.Identity]:
        """Returns the identities of the run's file, and those that operators have added, by name."""
        added, drained = self._added()
        known = {name: {**identity, "added": True} for name, identity in added.items()} | fleets_of(self._run)
        return [
            operator_pb2.Identity(
                name=name,
                roles=identity.get("roles", ["submit"]),
                tokens=len(identity.get("tokens", [])),
                sans=identity.get("sans", []),
                added=identity.get("added", False),
                drained=name in drained,
            )
            for name, identity in sorted(known.items())
        ]

    def _added(self) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """The identities that operators have added, and the fleets that are drained; nothing before the first start."""
        try:
            config = self._queue()
        except NeverStartedError:
            return {}, set()
        with IdentityRegistry(config) as registry, ChangeJournal(config) as journal:
            return {name: asdict(one) for name, one in registry.read().by_name.items()}, journal.drained()

    def add_fleet(self, name: str, roles: Sequence[Role], sans: Sequence[str], token: bool) -> str | None:
        """Adds an identity to the run's file, or credentials or roles to one."""
        self._refuse_added(name)
        return add_fleet(self._run, name, roles, sans, token)

    def revoke_fleet(self, name: str, older: bool) -> None:
        """Removes an identity of the run's file, or its older tokens."""
        self._refuse_added(name)
        revoke_fleet(self._run, name, older)

    def _refuse_added(self, name: str) -> None:
        """Refuses one that operators have added: in the file it would hide that one, and its removal would bring it back."""
        if name not in fleets_of(self._run) and name in self._added()[0]:
            raise RunError(
                f"fleet {name!r} was added while the run was in progress, and is kept in its queue: change or revoke it "
                f"while the run is in progress (leeway up {self._run.root} --resume)"
            )

    def versions(self) -> list[VersionRow]:
        """Returns the versions on disk, ascending."""
        known = publications.publications_of(self._run)
        return [self._version(version, known) for version in versions_on_disk(self._run.weights)]

    def evaluations(self) -> list[Evaluation]:
        """Returns the evaluations that the run has recorded, by version."""
        return read_evaluations(self._run.metrics)

    def pin(self, version: int, off: bool) -> SettledChange:
        """Marks a version on disk, or takes the mark away."""
        root = self._run.weights
        mark = root / PINNED / f"{version:06d}"
        if off:
            mark.unlink(missing_ok=True)
        else:
            read_manifest(root, version)
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        return SettledChange([f"{version_name(version)} is {'no longer ' if off else ''}pinned"])

    def roll_back(self, version: int) -> SettledChange:
        """Sets aside the checkpoints after a version, so that the next start goes on from there."""
        done = roll_back(self._run, version)
        lines = [f"the run will continue from {done.checkpoint.name}, step {done.step}"]
        if done.aside:
            lost = "an unknown number of" if done.lost is None else f"{done.lost:,}"
            lines += [
                f"set aside: {', '.join(done.aside)}",
                f"{lost} groups trained between step {done.step} and {done.newest_step} are not in these weights; those "
                "that are still in the queue are trained again, the others stay counted as trained",
            ]
        return SettledChange(lines)

    def changes(self, after: int) -> list[operator_pb2.RecordedChange]:
        """Returns the changes in the run's journal."""
        with ChangeJournal(self._queue()) as journal:
            return journal.list(after)

    def _queue(self) -> QueueConfig:
        if self._config is None:
            self._config = self._open.enter_context(queue_of(self._run))
        return self._config

    def _version(self, version: int, known: VersionsInUse | None) -> VersionRow:
        root = self._run.weights
        try:
            manifest = read_manifest(root, version)
        except CatalogError as error:
            return VersionRow(version, states=("unreadable",), evaluated=str(error))
        return VersionRow(
            version,
            manifest.step,
            manifest.epoch,
            sum(file.size for file in manifest.files),
            _kind(manifest),
            f"{manifest.published_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            tuple(self._states(version, known)),
            None if known is None else tuple(known.running.get(version, [])),
            "?" if known is None else worth_of(known.evaluations.get(version, [])),
        )

    def _states(self, version: int, known: VersionsInUse | None) -> Iterator[str]:
        pointer = self._run.weights / POINTER
        if pointer.is_file() and pointer.read_text().strip() == str(version):
            yield "newest"
        if version in pinned(self._run.weights):
            yield "pinned"
        if known is not None and version == known.best:
            yield "best"
        if known is not None and version not in known.registered:
            yield "orphan"


def _kind(manifest: manifest_pb2.Manifest) -> str:
    if manifest.HasField("adapter"):
        return f"adapter, rank {manifest.adapter.rank}"
    return f"delta of {manifest.base_version}" if manifest.HasField("base_version") else "full"

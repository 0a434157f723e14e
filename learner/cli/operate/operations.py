"""What commands ask of a run, wherever it is: its files and Redis here, or a gateway elsewhere, answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console

from learner.cli.operate.version_rows import VersionRow
from learner.cli.run.evaluations import Evaluation
from learner.gateway.auth import Role
from learner.queue.quarantine import Quarantined
from leeway.v1 import operator_pb2, rollout_pb2


@dataclass(frozen=True)
class RecountReport:
    """What a recount of the ledgers says.

    Attributes:
        lines: it as lines of text.
        row: it as plain values for JSON.
        discrepancies: number of differences that were found.
    """

    lines: list[str]
    row: dict[str, Any]
    discrepancies: int


@dataclass(frozen=True)
class SettledChange:
    """What became of a change.

    Attributes:
        lines: what to print.
        exit_status: 0: it is done; 1: it was refused; 3: the learner has not looked at it yet.
    """

    lines: list[str]
    exit_status: int = 0


class Operations(Protocol):
    """A run, as commands see it. Every method raises a LeewayError that says what to do."""

    def show_status(self, console: Console) -> None:
        """Prints the run's numbers, and its ledgers and evaluations."""
        ...

    def ledgers(self, fleet: str | None) -> list[rollout_pb2.Ledger]:
        """Returns each fleet's ledger, or that of one fleet."""
        ...

    def recount(self) -> RecountReport:
        """Counts the ledgers again."""
        ...

    def quarantined(self, keys: Sequence[str], fleet: str | None) -> list[Quarantined]:
        """Returns groups of the quarantine, newest first; ``keys`` and ``fleet`` choose among them."""
        ...

    def replay(self, keys: Sequence[str], fleet: str | None) -> list[operator_pb2.ReplayedGroup]:
        """Submits groups of the quarantine again."""
        ...

    def purge(self, keys: Sequence[str], fleet: str | None) -> int:
        """Deletes groups of the quarantine; returns how many."""
        ...

    def identities(self) -> list[operator_pb2.Identity]:
        """Returns every identity that the gateways know, by name."""
        ...

    def add_fleet(self, name: str, roles: Sequence[Role], sans: Sequence[str], token: bool) -> str | None:
        """Adds an identity, or credentials or roles to one; returns the new token if one was asked for."""
        ...

    def revoke_fleet(self, name: str, older: bool) -> None:
        """Removes an identity, or its older tokens."""
        ...

    def versions(self) -> list[VersionRow]:
        """Returns the versions, ascending."""
        ...

    def evaluations(self) -> list[Evaluation]:
        """Returns the evaluations, by version."""
        ...

    def pin(self, version: int, off: bool) -> SettledChange:
        """Keeps a version until it is unpinned (``off``)."""
        ...

    def roll_back(self, version: int) -> SettledChange:
        """Goes on from the newest checkpoint at or before a version."""
        ...

    def changes(self, after: int) -> list[operator_pb2.RecordedChange]:
        """Returns the changes after a number that operators have requested, in order."""
        ...

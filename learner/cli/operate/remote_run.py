"""A run elsewhere, as commands see it: what a gateway says of it, and does for it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from rich.console import Console

from learner.cli.operate.change_request import SETTLES_S, request_change
from learner.cli.operate.operations import RecountReport, SettledChange
from learner.cli.operate.remote_status import print_remote_status
from learner.cli.operate.secret_patch import FileFleetError, added, removed
from learner.cli.operate.version_rows import VersionRow, worth_of
from learner.cli.run.evaluations import Estimate, Evaluation
from learner.cli.view.ledger import of_fleet
from learner.gateway.auth import Role
from learner.gateway.identity_changes import IN_FILE
from learner.gateway.operator_client import OperatorClient
from learner.gateway.operator_failures import PreconditionError
from learner.queue.quarantine import Quarantined
from leeway.v1 import operator_pb2, rollout_pb2


class RemoteRun:
    """A run at a gateway. See Operations.

    Args:
        client: an operator's, which its owner closes.
        settles_s: seconds to wait for a change that the learner makes.
    """

    def __init__(self, client: OperatorClient, settles_s: float = SETTLES_S) -> None:
        self._client = client
        self._settles_s = settles_s

    def show_status(self, console: Console) -> None:
        """Prints what the gateway knows of the run."""
        client = self._client
        print_remote_status(console, client.status(), client.ledgers(), self.evaluations())

    def ledgers(self, fleet: str | None) -> list[rollout_pb2.Ledger]:
        """Returns each fleet's ledger, or that of one fleet."""
        return of_fleet(self._client.ledgers(), fleet, f"the run at {self._client.target.address}")

    def recount(self) -> RecountReport:
        """Lets the gateway count the ledgers again."""
        found = self._client.recount()
        texts, unverified = list(found.discrepancies), list(found.unverified)
        lines = [f"recounted: {found.groups:,} groups in the queue"]
        lines += [*(f"not verified: {text}" for text in unverified), *(f"discrepancy: {text}" for text in texts)]
        row = {"entries": found.groups, "discrepancies": texts, "unverified": unverified}
        return RecountReport(lines, row, len(texts))

    def quarantined(self, keys: Sequence[str], fleet: str | None) -> list[Quarantined]:
        """Returns groups of the quarantine, newest first."""
        return [_quarantined(one) for one in self._client.quarantine(keys, fleet or "")]

    def replay(self, keys: Sequence[str], fleet: str | None) -> list[operator_pb2.ReplayedGroup]:
        """Lets the gateway submit groups of the quarantine again."""
        return self._client.replay(keys, fleet or "")

    def purge(self, keys: Sequence[str], fleet: str | None) -> int:
        """Deletes groups of the quarantine."""
        return self._client.purge(keys, fleet or "")

    def identities(self) -> list[operator_pb2.Identity]:
        """Returns every identity that the gateways know, by name."""
        return sorted(self._client.identities(), key=lambda one: one.name)

    def add_fleet(self, name: str, roles: Sequence[Role], sans: Sequence[str], token: bool) -> str | None:
        """Adds an identity; its token is drawn here, and the gateway sees the digest alone.

        Raises:
            FileFleetError: the identity is in the gateways' own file; the error has the command that changes it.
        """
        drawn = secrets.token_urlsafe(32) if token else None
        digest = hashlib.sha256(drawn.encode()).hexdigest() if drawn else ""
        request = operator_pb2.AddIdentityRequest(name=name, roles=roles, sans=sans, token_sha256=digest)
        try:
            self._client.add_identity(request)
        except PreconditionError as error:
            if IN_FILE not in str(error):
                raise
            raise FileFleetError(str(error), added(request), drawn) from error
        return drawn

    def revoke_fleet(self, name: str, older: bool) -> None:
        """Removes an identity that operators have added. Raises FileFleetError as ``add_fleet`` does."""
        try:
            self._client.revoke_identity(name, older)
        except PreconditionError as error:
            if IN_FILE not in str(error):
                raise
            raise FileFleetError(str(error), removed(name, older)) from error

    def versions(self) -> list[VersionRow]:
        """Returns the announced versions, ascending."""
        found = sorted(self._client.versions(), key=lambda one: one.policy.version)
        worth: dict[int, list[rollout_pb2.Evaluation]] = {}
        for evaluation in self._client.evaluations():
            worth.setdefault(evaluation.version, []).append(evaluation)
        newest = found[-1].policy.version if found else None
        rows = []
        for one in found:
            policy = one.policy
            states = {"newest": policy.version == newest, "pinned": one.pinned, "best": one.best}
            rows.append(
                VersionRow(
                    policy.version,
                    policy.step,
                    policy.epoch,
                    published=f"{policy.published_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
                    states=tuple(name for name, holds in states.items() if holds),
                    run_by=tuple(one.run_by),
                    evaluated=worth_of(worth.get(policy.version, [])),
                )
            )
        return rows

    def evaluations(self) -> list[Evaluation]:
        """Returns the evaluations, by version."""
        return sorted(map(_evaluation, self._client.evaluations()), key=lambda one: (one.version, one.subject))

    def pin(self, version: int, off: bool) -> SettledChange:
        """Requests that a version be kept, or no longer kept."""
        if off:
            return self._done(operator_pb2.Change(unpin=operator_pb2.UnpinVersion(version=version)))
        return self._done(operator_pb2.Change(pin=operator_pb2.PinVersion(version=version)))

    def roll_back(self, version: int) -> SettledChange:
        """Requests that the learner go on from the newest checkpoint at or before a version."""
        return self._done(operator_pb2.Change(rollback=operator_pb2.RollBack(version=version)))

    def changes(self, after: int) -> list[operator_pb2.RecordedChange]:
        """Returns the changes in the run's journal."""
        return self._client.changes(after)

    def _done(self, change: operator_pb2.Change) -> SettledChange:
        lines: list[str] = []
        status = request_change(self._client, change, self._settles_s, lines.append, lines.append)
        return SettledChange(lines, status)


def _quarantined(one: operator_pb2.QuarantinedGroup) -> Quarantined:
    return Quarantined(
        key=one.key,
        fleet=one.fleet,
        time=one.time.ToNanoseconds() / 1e9,
        group_id=one.group_id,
        reason=one.reason,
        field=one.field,
        value=one.value,
        payload=one.group.SerializeToString() if one.HasField("group") else None,
        text=b"",
    )


def _evaluation(one: rollout_pb2.Evaluation) -> Evaluation:
    return Evaluation(
        time=one.measured_at.ToNanoseconds() / 1e9,
        version=one.version,
        name=one.name,
        sampling=one.sampling,
        prompts=one.prompts,
        samples=one.samples,
        unscored=one.unscored,
        metrics={name: Estimate(found.value, found.low, found.high) for name, found in sorted(one.metrics.items())},
        seconds=one.seconds,
    )

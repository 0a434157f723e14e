"""What a gateway does for operators about identities: it lists, adds and revokes them, for all gateways of the run."""

from __future__ import annotations

from learner.config import QueueConfig
from learner.gateway.auth import Identities, Identity
from learner.gateway.identity_changes import KnownIdentities
from learner.gateway.identity_feed import IdentityFeed
from learner.gateway.operator_threads import OperatorThreads
from learner.queue import UnavailableError
from learner.queue.change_journal import ChangeJournal
from learner.queue.identity_registry import AddedIdentity, IdentityRegistry
from leeway.v1 import operator_pb2

_ATTEMPTS = 10  # at a change, while other operators change identities too


class IdentityCalls:
    """Answers operators about identities. All methods raise QueueError.

    Args:
        config: where the queue is.
        identities: those that this gateway knows.
        feed: puts a change in force at this gateway at once; the others follow.
        threads: where what blocks runs.
    """

    def __init__(
        self, config: QueueConfig, identities: Identities, feed: IdentityFeed, threads: OperatorThreads
    ) -> None:
        self._config = config
        self._identities = identities
        self._feed = feed
        self._threads = threads

    async def list(self, _: operator_pb2.ListIdentitiesRequest) -> operator_pb2.ListIdentitiesResponse:
        """Returns every identity in force, by name."""
        await self._feed.look()
        drained = await self._threads.run(self._drained)
        listed = [self._message(name, one, drained) for name, one in sorted(self._identities.in_force.items())]
        return operator_pb2.ListIdentitiesResponse(identities=listed)

    async def add(self, request: operator_pb2.AddIdentityRequest) -> operator_pb2.AddIdentityResponse:
        """Adds an identity, or to one.

        Raises:
            InvalidRequestError: a field of the request cannot be taken.
            RefusedRequestError: the identity is in the file, or nobody could operate the run any more.
        """
        await self._feed.look()  # halted data is not to be changed: it raises
        await self._threads.run(self._add, request)
        await self._feed.look()
        drained = await self._threads.run(self._drained)
        identity = self._message(request.name, self._identities.in_force[request.name], drained)
        return operator_pb2.AddIdentityResponse(identity=identity)

    async def revoke(self, request: operator_pb2.RevokeIdentityRequest) -> operator_pb2.RevokeIdentityResponse:
        """Removes an identity, or its older tokens.

        Raises:
            InvalidRequestError: there is no such identity.
            RefusedRequestError: the identity is in the file, has no older token, or nobody could operate the run any more.
        """
        await self._feed.look()
        await self._threads.run(self._revoke, request)
        await self._feed.look()
        return operator_pb2.RevokeIdentityResponse()

    def _add(self, request: operator_pb2.AddIdentityRequest) -> None:
        with IdentityRegistry(self._config) as registry:
            for _ in range(_ATTEMPTS):
                known = registry.read()
                after = KnownIdentities(self._identities.in_file, known.by_name).addition(request)
                if after == known.by_name.get(request.name) or registry.write(known.revision, request.name, after):
                    return
        raise UnavailableError("other operators change identities all the time; try again")

    def _revoke(self, request: operator_pb2.RevokeIdentityRequest) -> None:
        with IdentityRegistry(self._config) as registry:
            for _ in range(_ATTEMPTS):
                known = registry.read()
                rest: AddedIdentity | None = KnownIdentities(self._identities.in_file, known.by_name).revocation(
                    request
                )
                if registry.write(known.revision, request.name, rest):
                    return
        raise UnavailableError("other operators change identities all the time; try again")

    def _drained(self) -> set[str]:
        with ChangeJournal(self._config) as journal:
            return journal.drained()

    def _message(self, name: str, identity: Identity, drained: set[str]) -> operator_pb2.Identity:
        return operator_pb2.Identity(
            name=name,
            roles=identity.roles,
            tokens=len(identity.tokens),
            sans=identity.sans,
            added=name in self._identities.added,
            drained=name in drained,
        )

"""What a gateway does when operators change the running service: it checks a change and writes it into the journal."""

from __future__ import annotations

from collections.abc import Mapping

from learner.config import GatewayConfig
from learner.config.changeable import change_gateway
from learner.gateway.auth import Identities
from learner.gateway.operator_threads import OperatorThreads
from learner.gateway.request_errors import InvalidRequestError
from learner.gateway.version_feed import VersionFeed
from learner.gateway.violation import quoted
from learner.queue.change_journal import ChangeJournal
from leeway.v1 import operator_pb2

_MOST_LISTED = 500  # changes: a message has a largest size


class ChangeCalls:
    """Answers operators who change the service. All methods raise QueueError.

    Args:
        config: the gateway's settings as its file has them.
        identities: knows which fleets there are.
        version_feed: knows which versions there are.
        threads: where what blocks runs.
    """

    def __init__(
        self, config: GatewayConfig, identities: Identities, version_feed: VersionFeed, threads: OperatorThreads
    ) -> None:
        self._config = config
        self._identities = identities
        self._version_feed = version_feed
        self._threads = threads

    async def request(
        self, operator: str, request: operator_pb2.RequestChangeRequest
    ) -> operator_pb2.RequestChangeResponse:
        """Writes a change into the journal, unless it is there already.

        Args:
            operator: who requests it, by the credentials.
            request: what is requested.

        Raises:
            InvalidRequestError: the change names a fleet or version that there is not, or no address.
            ChangeError: a setting cannot be changed, or its value does not fit.
        """
        named = _version(request.change)
        if named is not None and named not in self._version_feed.known:
            await self._version_feed.refresh()  # another gateway may have announced it already
        return operator_pb2.RequestChangeResponse(change=await self._threads.run(self._request, operator, request))

    async def list(self, request: operator_pb2.ListChangesRequest) -> operator_pb2.ListChangesResponse:
        """Returns changes in the order of their numbers, at most 500: ask again for those after the last one."""
        changes = await self._threads.run(self._list, request)
        return operator_pb2.ListChangesResponse(changes=changes[:_MOST_LISTED])

    def _request(self, operator: str, request: operator_pb2.RequestChangeRequest) -> operator_pb2.RecordedChange:
        change = request.change
        with ChangeJournal(self._config.queue) as journal:
            # The answer to a request that was made before stays what it was, even if it would be refused now.
            if request.request_id and (known := journal.list(request_id=request.request_id)):
                return known[0]
            self._check(change)
            values, removed = dict(change.set.values), list(change.unset.names)

            def judge(in_force: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
                changed = change_gateway(self._config, in_force, values, removed)
                return changed.old, changed.new

            if values or removed:
                judge(journal.settings())  # those of gateways, also where the learner judges the others
            return journal.request(request.request_id, operator, change, judge)

    def _check(self, change: operator_pb2.Change) -> None:
        kind = change.WhichOneof("kind")
        version, known = _version(change), self._version_feed.known
        if version is not None and version not in known:
            raise InvalidRequestError(
                f"{kind}.version = {version}: the run has announced no such version; list them first"
            )
        fleet = change.drain.fleet if kind == "drain" else change.undrain.fleet if kind == "undrain" else None
        # A fleet that was revoked while it was drained may be taken off the list.
        if fleet is not None and fleet not in self._identities.in_force and kind == "drain":
            raise InvalidRequestError(f"drain.fleet = {quoted(fleet)}: no identity has this name; list them first")
        if kind == "backup" and "://" not in change.backup.uri:
            raise InvalidRequestError(
                f"backup.uri = {quoted(change.backup.uri)}: expected an address such as s3://bucket/path or file:///path"
            )

    def _list(self, request: operator_pb2.ListChangesRequest) -> list[operator_pb2.RecordedChange]:
        with ChangeJournal(self._config.queue) as journal:
            return journal.list(request.after, request.request_id)


def _version(change: operator_pb2.Change) -> int | None:
    """The version that a change names; None for a change that names none."""
    kind = change.WhichOneof("kind")
    return getattr(change, kind).version if kind in ("rollback", "pin") else None

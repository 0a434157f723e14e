"""An operator's client of a run's gateways: one method for each call, deadlines, and errors of one line."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc

from learner.gateway.operator_failures import translated
from learner.gateway.operator_target import Target
from leeway.v1 import operator_pb2, operator_pb2_grpc, rollout_pb2, rollout_pb2_grpc

T = TypeVar("T")

_CALL_S = 30.0
_REPLAY_S = 300.0
_LISTING_S = 300.0  # groups are large; as long as gateways allow
_RECOUNT_S = 600.0  # every entry of the queue is read
_RETRIES_S = (0.2, 1.0, 3.0)  # between attempts of calls that may be made twice, while no gateway answers
_LOOK_S = (0.1, 0.2, 0.5, 1.0)  # between looks at a change that is not settled; the last one again and again
_LARGEST_MESSAGE = 256 << 20


class OperatorClient:
    """Calls of an operator to one gateway; use it as a context manager. Every call raises OperatorError.

    A call that may be made twice is made again while the gateway cannot be reached, up to three times.

    Args:
        target: the gateway and the credentials.
        retries_s: seconds to wait before each further attempt.

    Raises:
        OperatorError: a token or TLS file cannot be used.
    """

    def __init__(self, target: Target, retries_s: Sequence[float] = _RETRIES_S) -> None:
        self.target = target
        self._retries_s = retries_s
        token = target.token()
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._channel = _channel(target)
        self._operator = operator_pb2_grpc.OperatorServiceStub(self._channel)
        self._rollout = rollout_pb2_grpc.RolloutServiceStub(self._channel)

    def __enter__(self) -> OperatorClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def status(self) -> operator_pb2.GetRunStatusResponse:
        """Returns the state of the run."""
        return self._read(self._operator.GetRunStatus, operator_pb2.GetRunStatusRequest())

    def ledgers(self) -> list[rollout_pb2.Ledger]:
        """Returns every fleet's ledger."""
        return list(self._read(self._rollout.ListLedgers, rollout_pb2.ListLedgersRequest()).ledgers)

    def recount(self) -> operator_pb2.RecountLedgersResponse:
        """Counts the ledgers again; this reads the whole queue and may take minutes."""
        return self._read(self._operator.RecountLedgers, operator_pb2.RecountLedgersRequest(), limit_s=_RECOUNT_S)

    def quarantine(self, keys: Sequence[str] = (), fleet: str = "") -> list[operator_pb2.QuarantinedGroup]:
        """Returns groups of the quarantine, newest first: all, or those with these keys or ids, or of this fleet."""
        request = operator_pb2.ListQuarantineRequest(keys=keys, fleet=fleet)
        return self._read(self._operator.ListQuarantine, request, take=list, limit_s=_LISTING_S)

    def replay(self, keys: Sequence[str] = (), fleet: str = "") -> list[operator_pb2.ReplayedGroup]:
        """Submits groups of the quarantine again; returns what became of each."""
        request = operator_pb2.ReplayQuarantineRequest(keys=keys, fleet=fleet)
        return list(self._send(self._operator.ReplayQuarantine, request, limit_s=_REPLAY_S).groups)

    def purge(self, keys: Sequence[str] = (), fleet: str = "") -> int:
        """Deletes groups of the quarantine; returns how many."""
        request = operator_pb2.PurgeQuarantineRequest(keys=keys, fleet=fleet)
        return self._send(self._operator.PurgeQuarantine, request).deleted

    def identities(self) -> list[operator_pb2.Identity]:
        """Returns every identity that the gateways know."""
        return list(self._read(self._operator.ListIdentities, operator_pb2.ListIdentitiesRequest()).identities)

    def add_identity(self, request: operator_pb2.AddIdentityRequest) -> operator_pb2.Identity:
        """Adds an identity, or credentials or roles to one. Raises PreconditionError if it is in the gateways' file."""
        return self._read(self._operator.AddIdentity, request).identity

    def revoke_identity(self, name: str, older_tokens: bool = False) -> None:
        """Removes an identity, or its older tokens. Raises PreconditionError if it is in the gateways' file."""
        request = operator_pb2.RevokeIdentityRequest(name=name, older_tokens=older_tokens)
        self._send(self._operator.RevokeIdentity, request)

    def versions(self) -> list[operator_pb2.ListedVersion]:
        """Returns the announced versions, newest first."""
        return list(self._read(self._operator.ListVersions, operator_pb2.ListVersionsRequest()).versions)

    def evaluations(self) -> list[rollout_pb2.Evaluation]:
        """Returns the evaluations, newest version first."""
        return list(self._read(self._operator.ListEvaluations, operator_pb2.ListEvaluationsRequest()).evaluations)

    def groups(self, fleet: str = "", limit: int = 20) -> list[operator_pb2.ListedGroup]:
        """Returns the newest groups that wait in the queue, newest first; ``limit``: 1 to 1000."""
        request = operator_pb2.ListGroupsRequest(fleet=fleet, limit=limit)
        return self._read(self._operator.ListGroups, request, take=list, limit_s=_LISTING_S)

    def request(self, change: operator_pb2.Change, request_id: str = "") -> operator_pb2.RecordedChange:
        """Requests a change of the running service; returns it as it is written down.

        Args:
            change: what to change.
            request_id: names the request, so that a resend changes nothing; "": a new one is drawn.
        """
        request = operator_pb2.RequestChangeRequest(request_id=request_id or uuid.uuid4().hex, change=change)
        return self._read(self._operator.RequestChange, request).change

    def changes(self, after: int = 0, request_id: str = "") -> list[operator_pb2.RecordedChange]:
        """Returns the changes after a number, in order; with ``request_id`` the change of this request only."""
        found: list[operator_pb2.RecordedChange] = []
        while True:  # a reply has a few hundred at most
            request = operator_pb2.ListChangesRequest(after=after, request_id=request_id)
            page = list(self._read(self._operator.ListChanges, request).changes)
            found += page
            if not page or request_id:
                return found
            after = page[-1].number

    def settled(self, change: operator_pb2.RecordedChange, limit_s: float) -> operator_pb2.RecordedChange:
        """Waits until a change is applied or refused, for at most ``limit_s``; returns it as it then is."""
        end, looks = time.monotonic() + limit_s, iter(_LOOK_S)
        while change.state == operator_pb2.CHANGE_STATE_PENDING and (left := end - time.monotonic()) > 0:
            time.sleep(min(next(looks, _LOOK_S[-1]), left))
            change = next(iter(self.changes(request_id=change.request_id)), change)
        return change

    def _send(self, call: Any, request: Any, *, limit_s: float = _CALL_S) -> Any:
        """Makes a call that must not be made twice: it is tried again only where no connection carried it."""
        return self._tried(lambda: call(request, timeout=limit_s, metadata=self._metadata), _never_sent)

    def _read(
        self, call: Any, request: Any, *, take: Callable[[Any], T] = lambda reply: reply, limit_s: float = _CALL_S
    ) -> T:
        """Makes a call that may be made twice, and takes what its reply, or its stream of replies, has."""
        return self._tried(lambda: take(call(request, timeout=limit_s, metadata=self._metadata)), _unavailable)

    def _tried(self, call: Callable[[], T], again: Callable[[grpc.RpcError], bool]) -> T:
        """Makes a call, once more after each pause while it fails in a way that ``again`` allows."""
        with translated(self.target):
            for wait_s in self._retries_s:
                try:
                    return call()
                except grpc.RpcError as error:
                    if not again(error):
                        raise
                time.sleep(wait_s)
            return call()


def _unavailable(error: grpc.RpcError) -> bool:
    return error.code() == grpc.StatusCode.UNAVAILABLE  # pyright: ignore[reportAttributeAccessIssue]


def _never_sent(error: grpc.RpcError) -> bool:
    """Whether a call failed because there was no connection, so that the gateway has seen nothing of it."""
    details = error.details() or ""  # pyright: ignore[reportAttributeAccessIssue]
    return _unavailable(error) and details.startswith("failed to connect to all addresses")


def _channel(target: Target) -> grpc.Channel:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if target.plain_text:
        return grpc.insecure_channel(target.address, options=options)
    if target.server_name is not None:
        options.append(("grpc.ssl_target_name_override", target.server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=target.content("ca"),
        private_key=target.content("key"),
        certificate_chain=target.content("certificate"),
    )
    return grpc.secure_channel(target.address, credentials, options=options)

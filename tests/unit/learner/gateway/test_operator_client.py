"""An operator's client against a scripted gateway: what is sent, what is sent again, and what each failure says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from learner.gateway.operator_client import OperatorClient
from learner.gateway.operator_failures import PreconditionError
from learner.gateway.operator_target import OperatorError, Target
from leeway.v1 import operator_pb2 as op
from leeway.v1 import rollout_pb2 as pb
from tests.service.certificates import Authority
from tests.tools.scripted_operator import TOKEN, ScriptedOperator, scripted_operator

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "going away")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "operator.token"
    file.write_text(f"{TOKEN}\n")
    return file


def client(gateway: ScriptedOperator, token_file: Path, **target: Any) -> OperatorClient:
    return OperatorClient(Target(gateway.address, token_file, **target), retries_s=(0.01, 0.01))


def failure(gateway: ScriptedOperator, token_file: Path, **target: Any) -> str:
    with client(gateway, token_file, **target) as one, pytest.raises(OperatorError) as caught:
        one.status()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_calls_carry_the_token_and_return_what_came(token_file: Path):
    with scripted_operator(
        GetRunStatus=op.GetRunStatusResponse(run="r", step=7),
        ListLedgers=pb.ListLedgersResponse(ledgers=[pb.Ledger(fleet="alpha")]),
        ListQuarantine=[op.QuarantinedGroup(key="0a"), op.QuarantinedGroup(key="0b")],
        PurgeQuarantine=op.PurgeQuarantineResponse(deleted=2),
    ) as gateway:
        with client(gateway, token_file) as one:
            assert one.status().step == 7
            assert [ledger.fleet for ledger in one.ledgers()] == ["alpha"]
            assert [group.key for group in one.quarantine(["0a"], "alpha")] == ["0a", "0b"]
            assert one.purge(fleet="alpha") == 2
        assert gateway.asked("ListQuarantine") == [op.ListQuarantineRequest(keys=["0a"], fleet="alpha")]
        assert gateway.asked("PurgeQuarantine") == [op.PurgeQuarantineRequest(fleet="alpha")]


def test_only_calls_that_may_be_made_twice_are_made_again(token_file: Path):
    change = op.RequestChangeResponse(change=op.RecordedChange(number=1))
    with scripted_operator(
        RequestChange=[UNAVAILABLE, UNAVAILABLE, change],
        ListGroups=[[op.ListedGroup(fleet="alpha")]],
        RevokeIdentity=[UNAVAILABLE, op.RevokeIdentityResponse()],
    ) as gateway:
        with client(gateway, token_file) as one:
            assert one.request(op.Change(pause=op.Pause())).number == 1
            with pytest.raises(OperatorError, match="going away"):
                one.revoke_identity("alpha")
        ids = {request.request_id for request in gateway.asked("RequestChange")}
        assert (len(gateway.asked("RequestChange")), len(ids)) == (3, 1)
        assert len(gateway.asked("RevokeIdentity")) == 1


class NoConnection(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed to connect to all addresses; last error: handshaker shutdown"


def test_a_call_that_nothing_has_carried_is_made_again(token_file: Path, monkeypatch: pytest.MonkeyPatch):
    """A gateway on a busy machine may not finish the handshake in time: it has seen nothing of the call then."""
    with scripted_operator(RevokeIdentity=[op.RevokeIdentityResponse()]) as gateway:
        with client(gateway, token_file) as one:
            real, tries = one._operator.RevokeIdentity, []

            def call(*arguments: Any, **options: Any) -> Any:
                tries.append(1)
                if len(tries) < 3:
                    raise NoConnection
                return real(*arguments, **options)

            monkeypatch.setattr(one._operator, "RevokeIdentity", call)
            one.revoke_identity("alpha")
        assert (len(tries), len(gateway.asked("RevokeIdentity"))) == (3, 1)


def test_a_change_is_looked_at_until_it_is_settled(token_file: Path):
    pending = op.RecordedChange(number=3, request_id="x", state=op.CHANGE_STATE_PENDING)
    applied = op.RecordedChange(number=3, request_id="x", state=op.CHANGE_STATE_APPLIED)
    replies = [op.ListChangesResponse(changes=[one]) for one in (pending, applied)]
    with scripted_operator(ListChanges=replies) as gateway, client(gateway, token_file) as one:
        assert one.settled(pending, 60.0).state == op.CHANGE_STATE_APPLIED
        assert one.settled(pending, 0.0).state == op.CHANGE_STATE_PENDING
        assert [request.request_id for request in gateway.asked("ListChanges")] == ["x", "x"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "operator.token is of no identity of the run"),
        (grpc.StatusCode.PERMISSION_DENIED, "leeway fleet add NAME --role operate"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "resource exhausted: the words"),
        (grpc.StatusCode.INVALID_ARGUMENT, "the words"),
    ],
)
def test_each_failure_says_what_to_do(token_file: Path, code: grpc.StatusCode, words: str):
    with scripted_operator(GetRunStatus=(code, "the words\nof the gateway")) as gateway:
        assert words in failure(gateway, token_file)


def test_a_gateway_without_a_queue_is_told_from_one_that_cannot_be_reached(token_file: Path):
    away = (grpc.StatusCode.UNAVAILABLE, "the queue does not answer; try again in a second")
    with scripted_operator(GetRunStatus=away) as gateway:
        said = failure(gateway, token_file)
    assert "the queue does not answer" in said
    assert "look at its log and at Redis" in said
    assert "cannot connect" not in said


def test_an_unknown_token(token_file: Path):
    token_file.write_text("another\n")
    with scripted_operator() as gateway:
        assert f"gateway {gateway.address}: unknown token" in failure(gateway, token_file)


def test_what_the_gateways_file_has_is_told_apart(token_file: Path):
    refused = (grpc.StatusCode.FAILED_PRECONDITION, "alpha is in the identities file")
    with (
        scripted_operator(AddIdentity=refused) as gateway,
        client(gateway, token_file) as one,
        pytest.raises(PreconditionError, match="alpha is in the identities file"),
    ):
        one.add_identity(op.AddIdentityRequest(name="alpha"))


def test_a_gateway_without_the_service(token_file: Path):
    with scripted_operator(operators=False) as gateway:
        assert "it has no operator's service" in failure(gateway, token_file)


def test_nobody_listens(token_file: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert f"cannot connect to {address}" in failure(ScriptedOperator(address=address), token_file)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def behind_tls(authority: Authority) -> Iterator[ScriptedOperator]:
    pair = authority.issue("gateway", "gateway.test")
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
    with scripted_operator(credentials, GetRunStatus=op.GetRunStatusResponse(run="r")) as gateway:
        yield gateway


def test_tls(behind_tls: ScriptedOperator, authority: Authority, token_file: Path, tmp_path: Path):
    with client(behind_tls, token_file, ca=authority.certificate, server_name="gateway.test") as one:
        assert one.status().run == "r"
    other = Authority(tmp_path / "other", "other").certificate
    text = failure(behind_tls, token_file, ca=other, server_name="gateway.test")
    assert f"its certificate is not trusted by the authorities in {other}" in text
    assert "is not for 127.0.0.1 (give --server-name" in failure(behind_tls, token_file, ca=authority.certificate)
    assert "if it serves TLS, give --ca F" in failure(behind_tls, token_file)


def test_tls_to_a_gateway_without(authority: Authority, token_file: Path):
    with scripted_operator() as gateway:
        assert "it does not speak TLS" in failure(gateway, token_file, ca=authority.certificate)

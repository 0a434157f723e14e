"""What a failed call of an operator means for the operator: one line that names the gateway and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from learner.gateway.operator_target import OperatorError, Target

# What a gateway says itself (learner/gateway/call_gate.py): there is a connection to it.
_OWN_WORDS = ("the queue does not answer", "this gateway is draining")


class PreconditionError(OperatorError):
    """The gateway's state does not allow the call, as of an identity that is in the gateways' own file."""


@contextlib.contextmanager
def translated(target: Target) -> Iterator[None]:
    """Turns gRPC errors of calls to ``target`` in the block into OperatorErrors."""
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), _line(error.details() or "")  # pyright: ignore[reportAttributeAccessIssue]
        if code == grpc.StatusCode.FAILED_PRECONDITION:
            raise PreconditionError(f"gateway {target.address}: {details}") from error
        raise OperatorError(_text(target, code, details)) from error


def _text(target: Target, code: grpc.StatusCode, details: str) -> str:
    where = f"gateway {target.address}"
    if code == grpc.StatusCode.UNAVAILABLE:
        if details.startswith(_OWN_WORDS):
            return f"{where}: {details}; if it lasts, look at its log and at Redis"
        return _unreachable(target, details)
    if code == grpc.StatusCode.UNAUTHENTICATED:
        source = f"the token in {target.token_file}" if target.token_file else f"the certificate {target.certificate}"
        return f"{where}: {details}: {source} is of no identity of the run; `leeway fleet add NAME --role operate` adds one"
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return f"{where}: {details}: the identity needs the role operate: `leeway fleet add NAME --role operate`"
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"{where}: it has no operator's service: it is of another release than this command, or no gateway of Leeway; "
            "look at the address, or update the gateways"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{where}: no answer in time; look at its log and at Redis, and try again"
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS):
        return details
    return f"{where}: {code.name.lower().replace('_', ' ')}: {details}"


def _unreachable(target: Target, details: str) -> str:
    where = f"cannot connect to {target.address}"
    if "CERTIFICATE_VERIFY_FAILED" in details or "Peer name" in details or "Hostname Verification" in details:
        trusted = f"the authorities in {target.ca}" if target.ca else "this system's authorities (give --ca F)"
        name = target.server_name or target.address.rpartition(":")[0]
        return (
            f"{where}: its certificate is not trusted by {trusted}, or is not for {name} (give --server-name where it is for "
            "another name)"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return f"{where}: it does not speak TLS: leave out --ca, or give --insecure where the network itself is trusted"
    if not target.plain_text and ("andshake" in details or "SSL" in details):
        return (
            f"{where}: the TLS handshake failed: a gateway with client_ca wants --certificate and --key of an authority that "
            f"it trusts ({details})"
        )
    if target.plain_text and ("ocket closed" in details or "reset" in details or "GOAWAY" in details):
        return f"{where}: it closed the connection in plain text: if it serves TLS, give --ca F"
    return f"{where}: {details}; look at the address, at the gateway's log, and at what filters the network"


def _line(text: str) -> str:
    """A gateway's words as one line, without what it tells of gRPC's attempts."""
    words = " ".join(text.split())
    _, found, reason = words.partition("last error: ")
    return (reason if found else words).rstrip(".")

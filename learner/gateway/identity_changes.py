"""What operators may change about identities while the service runs. Pure: what is known in, the new state out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import get_args

from learner.gateway.auth import Identity, Role
from learner.gateway.request_errors import InvalidRequestError, RefusedRequestError
from learner.gateway.violation import quoted
from learner.queue.identity_registry import AddedIdentity
from leeway.v1 import operator_pb2

MOST_IDENTITIES = 1000  # that operators have added; each call compares its token with all of them
MOST_TOKENS = 16  # of one identity
MOST_SANS = 64  # of one identity
_LONGEST_SAN = 512
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROLES = get_args(Role)
IN_FILE = "it is in the gateways' identities file"  # by which a client tells this refusal from others


class KnownIdentities:
    """All identities of a run, by which a change is decided.

    Args:
        in_file: those of the identities file.
        added: those that operators have added.
    """

    def __init__(self, in_file: Mapping[str, Identity], added: Mapping[str, AddedIdentity]) -> None:
        self._in_file = in_file
        self._added = added

    def addition(self, request: operator_pb2.AddIdentityRequest) -> AddedIdentity:
        """Decides what an identity is after a request to add it, or to add to it.

        Raises:
            InvalidRequestError: a field of the request cannot be taken.
            RefusedRequestError: the identity is in the file, or nobody could operate the run any more.
        """
        _check_fields(request)
        self._require_not_in_file(request.name, "changed")
        before = self._added.get(request.name)
        if before is None and len(self._added) >= MOST_IDENTITIES:
            raise RefusedRequestError(
                f"name = {request.name!r}: operators have added {MOST_IDENTITIES} identities already; revoke some first, or "
                "write it into the identities file"
            )
        known = before or AddedIdentity()
        token = (request.token_sha256,) if request.token_sha256 else ()
        after = AddedIdentity(
            tokens=tuple(dict.fromkeys((*known.tokens, *token))),
            sans=tuple(dict.fromkeys((*known.sans, *request.sans))),
            roles=tuple(dict.fromkeys(request.roles)) or known.roles,
        )
        self._check_credentials(request, after)
        self._require_operator({**self._added, request.name: after}, request.name, "loses the role operate")
        return after

    def revocation(self, request: operator_pb2.RevokeIdentityRequest) -> AddedIdentity | None:
        """Decides what is left of an identity after its revocation; None: nothing.

        Raises:
            InvalidRequestError: there is no such identity.
            RefusedRequestError: the identity is in the file, has no older token, or nobody could operate the run any more.
        """
        name = request.name
        self._require_not_in_file(name, "removed")
        before = self._added.get(name)
        if before is None:
            raise InvalidRequestError(f"name = {quoted(name)}: operators have added no such identity; list them first")
        if not request.older_tokens:
            rest = {other: one for other, one in self._added.items() if other != name}
            self._require_operator(rest, name, "is revoked")
            return None
        if len(before.tokens) < 2:
            raise RefusedRequestError(f"name = {name!r}: it has {len(before.tokens)} token(s), and no older one")
        return AddedIdentity(before.tokens[-1:], before.sans, before.roles)

    def _require_not_in_file(self, name: str, what: str) -> None:
        if name in self._in_file:
            raise RefusedRequestError(
                f"name = {name!r}: {IN_FILE} and can only be {what} there; with the file of a run's directory: leeway fleet"
            )

    def _check_credentials(self, request: operator_pb2.AddIdentityRequest, after: AddedIdentity) -> None:
        if not (after.tokens or after.sans):
            raise InvalidRequestError(
                "token_sha256 = '' and no sans: nobody could be recognised as this identity; give it a token, or the name "
                "in its certificate"
            )
        for field, found, most in (("token_sha256", after.tokens, MOST_TOKENS), ("sans", after.sans, MOST_SANS)):
            if len(found) > most:
                raise InvalidRequestError(
                    f"{field}: {request.name} would have {len(found)}, expected at most {most}; revoke older ones first"
                )
        owners = dict(self._credentials(request.name))
        for field, values in (("token_sha256", [request.token_sha256]), ("sans", request.sans)):
            for value in values:
                if value in owners:
                    shown = "the given one" if field == "token_sha256" else repr(value)
                    raise InvalidRequestError(f"{field} = {shown}: it belongs to {owners[value]}; give each its own")

    def _credentials(self, but: str) -> Iterator[tuple[str, str]]:
        """Yields every credential of all identities but one, with its owner's name."""
        for name, one in (*self._added.items(), *self._in_file.items()):
            if name != but:
                yield from ((credential, name) for credential in (*one.tokens, *one.sans))

    def _require_operator(self, added: Mapping[str, AddedIdentity], name: str, what: str) -> None:
        """Raises RefusedRequestError if nobody could operate the run once ``added`` is what operators have added."""
        of_file = any("operate" in one.roles and (one.tokens or one.sans) for one in self._in_file.values())
        # What the file contradicts counts for nothing.
        mine = any(
            "operate" in one.roles and (one.tokens or one.sans)
            for other, one in added.items()
            if other not in self._in_file
        )
        if not (of_file or mine):
            raise RefusedRequestError(
                f"name = {name!r}: nobody could operate this run any more once it {what}; add another identity with the role "
                "operate first"
            )


def _check_fields(request: operator_pb2.AddIdentityRequest) -> None:
    if not _NAME.fullmatch(request.name):
        raise InvalidRequestError(f"name = {quoted(request.name)}: expected 1 to 64 of [A-Za-z0-9._-]")
    for number, role in enumerate(request.roles):
        if role not in _ROLES:
            raise InvalidRequestError(f"roles[{number}] = {quoted(role)}: expected {', '.join(_ROLES)}")
    for number, san in enumerate(request.sans):
        if not 1 <= len(san) <= _LONGEST_SAN or not san.isprintable():
            raise InvalidRequestError(
                f"sans[{number}] = {quoted(san)}: expected 1 to {_LONGEST_SAN} printable characters, as in the certificate"
            )
    if request.token_sha256 and not _DIGEST.fullmatch(request.token_sha256):
        raise InvalidRequestError(
            f"token_sha256: {len(request.token_sha256)} characters, expected the SHA-256 of the token: 64 hexadecimal digits "
            "in lower case. Never send the token itself"
        )

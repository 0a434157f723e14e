"""What operators may change about identities: who may be added, what may be revoked, and who always stays."""

from __future__ import annotations

from typing import Any

import pytest

from learner.gateway.auth import Identity
from learner.gateway.identity_changes import MOST_IDENTITIES, MOST_SANS, MOST_TOKENS, KnownIdentities
from learner.gateway.request_errors import InvalidRequestError, RefusedRequestError
from learner.queue.identity_registry import AddedIdentity
from leeway.v1 import operator_pb2 as op

A, B, C = "a" * 64, "b" * 64, "c" * 64
FILE = {"admin": Identity(tokens=[A], roles=["operate"]), "old": Identity(sans=["old.example"])}
ADDED = {"tokyo": AddedIdentity((B,), ("tokyo.example",), ("submit",))}


def added(**fields: Any) -> AddedIdentity:
    return KnownIdentities(FILE, ADDED).addition(op.AddIdentityRequest(**fields))


def test_a_new_identity_may_submit_and_what_is_known_is_added_to():
    assert added(name="oslo", token_sha256=C) == AddedIdentity((C,), (), ("submit",))
    assert added(name="oslo", sans=["x", "x"], roles=["evaluate", "evaluate"]) == AddedIdentity(
        (), ("x",), ("evaluate",)
    )
    assert added(name="tokyo", token_sha256=C) == AddedIdentity((B, C), ("tokyo.example",), ("submit",))
    assert added(name="tokyo", roles=["operate"]).roles == ("operate",)
    # Sent again, it changes nothing.
    assert added(name="tokyo", token_sha256=B, sans=["tokyo.example"]) == ADDED["tokyo"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "", "token_sha256": C}, "name = ''"),
        ({"name": "a b", "token_sha256": C}, "name = 'a b': expected 1 to 64"),
        ({"name": "a\n", "token_sha256": C}, r"name = 'a\n'"),
        ({"name": "x" * 65, "token_sha256": C}, "name = 'xxx"),
        ({"name": "x", "token_sha256": "secret"}, "token_sha256: 6 characters, expected the SHA-256"),
        ({"name": "x", "token_sha256": "A" * 64}, "in lower case"),
        (
            {"name": "x", "token_sha256": C, "roles": ["submit", "root"]},
            "roles[1] = 'root': expected submit, operate, evaluate",
        ),
        ({"name": "x", "sans": ["y", ""]}, "sans[1] = ''"),
        ({"name": "x", "sans": ["y" * 513]}, "sans[0] = 'yyy"),
        ({"name": "x", "sans": ["a\x1b[2J"]}, r"sans[0] = 'a\x1b[2J'"),
        ({"name": "x"}, "nobody could be recognised"),
        ({"name": "x", "token_sha256": A}, "token_sha256 = the given one: it belongs to admin"),
        ({"name": "x", "token_sha256": B}, "it belongs to tokyo"),
        ({"name": "x", "sans": ["old.example"]}, "sans = 'old.example': it belongs to old"),
        ({"name": "tokyo", "sans": [str(number) for number in range(MOST_SANS)]}, f"at most {MOST_SANS}"),
    ],
)
def test_what_cannot_be_added(fields: dict[str, Any], text: str):
    with pytest.raises(InvalidRequestError) as caught:
        added(**fields)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert A not in str(caught.value)


def test_what_is_in_the_file_is_changed_there():
    with pytest.raises(RefusedRequestError, match="'old': it is in the gateways' identities file"):
        added(name="old", token_sha256=C)
    with pytest.raises(RefusedRequestError, match="can only be removed there"):
        KnownIdentities(FILE, ADDED).revocation(op.RevokeIdentityRequest(name="old"))


def test_the_numbers_are_bounded():
    many = {str(number): AddedIdentity((f"{number:064x}",)) for number in range(MOST_IDENTITIES)}
    with pytest.raises(RefusedRequestError, match=f"added {MOST_IDENTITIES} identities already"):
        KnownIdentities({}, many).addition(op.AddIdentityRequest(name="x", token_sha256=C))
    full = {"x": AddedIdentity(tuple(f"{number:064x}" for number in range(MOST_TOKENS)))}
    with pytest.raises(InvalidRequestError, match=f"would have {MOST_TOKENS + 1}, expected at most {MOST_TOKENS}"):
        KnownIdentities(FILE, full).addition(op.AddIdentityRequest(name="x", token_sha256=C))


def test_an_identity_is_revoked_or_its_older_tokens_are():
    known = KnownIdentities(FILE, {"tokyo": AddedIdentity((B, C), ("s",), ("evaluate",))})
    assert known.revocation(op.RevokeIdentityRequest(name="tokyo")) is None
    rest = known.revocation(op.RevokeIdentityRequest(name="tokyo", older_tokens=True))
    assert rest == AddedIdentity((C,), ("s",), ("evaluate",))
    with pytest.raises(RefusedRequestError, match="no older one"):
        KnownIdentities(FILE, ADDED).revocation(op.RevokeIdentityRequest(name="tokyo", older_tokens=True))
    with pytest.raises(InvalidRequestError, match="no such identity"):
        known.revocation(op.RevokeIdentityRequest(name="nobody"))


def test_somebody_can_always_operate_the_run():
    one = {"root": AddedIdentity((B,), (), ("operate",)), "tokyo": AddedIdentity((C,))}
    alone = KnownIdentities({"file": Identity(tokens=[A])}, one)
    with pytest.raises(RefusedRequestError, match="nobody could operate this run any more once it is revoked"):
        alone.revocation(op.RevokeIdentityRequest(name="root"))
    with pytest.raises(RefusedRequestError, match="loses the role operate"):
        alone.addition(op.AddIdentityRequest(name="root", roles=["submit"]))
    # An operator without a credential, or one whose name the file has taken, is none.
    for other in (AddedIdentity((), (), ("operate",)),):
        with pytest.raises(RefusedRequestError):
            KnownIdentities({}, {**one, "other": other}).revocation(op.RevokeIdentityRequest(name="root"))
    shadowed = {**one, "file": AddedIdentity((A,), (), ("operate",))}
    with pytest.raises(RefusedRequestError):
        KnownIdentities({"file": Identity(sans=["f"])}, shadowed).revocation(op.RevokeIdentityRequest(name="root"))
    second = {**one, "second": AddedIdentity((), ("s",), ("operate",))}
    assert KnownIdentities({}, second).revocation(op.RevokeIdentityRequest(name="root")) is None
    assert KnownIdentities(FILE, one).revocation(op.RevokeIdentityRequest(name="root")) is None

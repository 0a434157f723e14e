"""Authentication of fleets by tokens and certificates, and their roles."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from learner.gateway.auth import Caller, Identities, PresentedCredentials, UnauthenticatedError
from learner.queue.identity_registry import AddedIdentities, AddedIdentity
from runtime.settings import SettingsError


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write(path: Path, identities: dict[str, Any]) -> Path:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(identities))
    os.replace(temporary, path)
    return path


def bearer(token: str) -> list[tuple[str, str]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def call(identities: Identities, metadata: object = None, *sans: str) -> Caller:
    context = {"x509_subject_alternative_name": [name.encode() for name in sans]} if sans else {}
    return identities.caller(PresentedCredentials.of(metadata, context))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    identities = {
        "a": {"tokens": [sha256("secret-a"), sha256("next-a")], "sans": ["a.fleets", "spiffe://x/a"]},
        "b": {"tokens": [sha256("secret-b")], "sans": ["b.fleets"], "roles": ["operate"]},
        "nobody": {"roles": []},
    }
    return write(tmp_path / "identities.json", identities)


def test_fleet_of_its_token(path: Path):
    identities = Identities(path)
    assert call(identities, bearer("secret-a")).fleet == call(identities, bearer("next-a")).fleet == "a"
    assert call(identities, bearer("secret-b")).fleet == "b"
    assert call(identities, [("authorization", "bearer secret-b")]).fleet == "b"


def test_fleet_of_its_certificate(path: Path):
    identities = Identities(path)
    assert call(identities, None, "spiffe://x/a").fleet == "a"
    assert call(identities, [], "unmapped", "b.fleets").fleet == "b"
    assert call(identities, bearer("secret-a"), "a.fleets").fleet == "a"
    assert call(identities, bearer("secret-a"), "unmapped").fleet == "a"


def test_roles(path: Path):
    identities = Identities(path)
    assert call(identities, bearer("secret-a")).roles == {"submit"}
    assert call(identities, None, "b.fleets").roles == {"operate"}


@pytest.mark.parametrize(
    ("metadata", "sans", "message"),
    [
        (None, (), "no token: send"),
        ([], (), "no token: send"),
        (None, ("unmapped",), "no token and no certificate of a fleet"),
        ([("authorization", "")], (), "Bearer"),
        ([("authorization", "Basic c2VjcmV0LWE=")], (), "Bearer"),
        (bearer("secret-a") + bearer("secret-b"), (), "one 'Bearer"),
        (bearer(""), (), "empty token"),
        (bearer("secret"), (), "unknown token"),
        # A certificate does not excuse a wrong token.
        (bearer("secret"), ("a.fleets",), "unknown token"),
        # The hash is not the token: reading the file is not enough to call.
        (bearer(sha256("secret-a")), (), "unknown token"),
        (bearer("secret-a"), ("b.fleets",), "different fleets"),
        (None, ("a.fleets", "b.fleets"), "several fleets"),
    ],
)
def test_everything_else_is_refused(path: Path, metadata: object, sans: tuple[str, ...], message: str):
    with pytest.raises(UnauthenticatedError, match=message):
        call(Identities(path), metadata, *sans)


def test_a_new_file_counts_at_once(path: Path):
    identities = Identities(path)
    write(path, {"a": {"tokens": [sha256("renewed")]}, "c": {"sans": ["c.fleets"]}})
    assert identities.reload()
    assert not identities.reload()
    assert call(identities, bearer("renewed")).fleet == "a"
    assert call(identities, None, "c.fleets").fleet == "c"
    for metadata, sans in ((bearer("secret-a"), ()), (bearer("secret-b"), ()), (None, ("a.fleets",))):
        with pytest.raises(UnauthenticatedError):
            call(identities, metadata, *sans)


@pytest.mark.parametrize("damaged", ['{"a": "', "[]", '{"a": "short"}', None])
def test_a_damaged_file_changes_nothing(path: Path, damaged: str | None):
    identities = Identities(path)
    if damaged is None:
        path.unlink()
    else:
        path.write_text(damaged)
    assert not identities.reload()
    assert call(identities, bearer("secret-a")).fleet == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ('{"a"', "not valid JSON"),
        ("[1]", "expected an object"),
        ({"a b": {}}, "'a b'"),
        ({"a": {"tokens": ["0" * 63]}}, r"fleets\.a\.tokens\.0 = '0+'"),
        ({"a": {"tokens": ["A" * 64]}}, r"fleets\.a\.tokens\.0"),
        (
            {"a": {"roles": ["root"]}},
            r"fleets\.a\.roles\.0 = 'root': Input should be 'submit', 'operate' or 'evaluate'",
        ),
        ({"a": {"sans": [""]}}, r"fleets\.a\.sans\.0 = ''"),
        ({"a": {"token": []}}, "unknown key 'fleets.a.token'"),
        ({"a": 7}, r"fleets\.a = 7"),
        ({"a": {"sans": ["x"]}, "b": {"sans": ["x"]}}, "a and b share 'x'"),
        ({"a": {"tokens": ["0" * 64]}, "b": {"tokens": ["0" * 64]}}, "a and b share '0000"),
    ],
)
def test_a_bad_file_at_the_start_is_an_error(tmp_path: Path, content: Any, message: str):
    path = tmp_path / "identities.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SettingsError, match=message) as caught:
        Identities(path)
    assert str(path) in str(caught.value)


def added(**identities: AddedIdentity) -> AddedIdentities:
    return AddedIdentities("r", identities)


def test_added_identities_count_beside_the_file(path: Path):
    identities = Identities(path)
    revision = identities.revision
    identities.merge(added(c=AddedIdentity((sha256("secret-c"),), ("c.fleets",), ("submit", "evaluate"))))
    assert identities.revision != revision
    assert call(identities, bearer("secret-c"), "c.fleets").fleet == "c"
    assert call(identities, None, "c.fleets").roles == {"submit", "evaluate"}
    assert (identities.added, identities.ignored) == ({"c"}, 0)
    assert identities.submitters() == {"a", "c"}
    write(path, {"b": {"tokens": [sha256("secret-b")]}})
    assert call(identities, bearer("secret-c")).fleet == "c"
    identities.merge(added())
    with pytest.raises(UnauthenticatedError):
        call(identities, bearer("secret-c"))


def test_where_an_added_identity_contradicts_the_file_the_file_is_right(path: Path):
    identities = Identities(path)
    identities.merge(
        added(
            b=AddedIdentity((sha256("other-b"),), (), ("operate",)),
            c=AddedIdentity((sha256("secret-a"), sha256("secret-c")), ("a.fleets", "c.fleets")),
            d=AddedIdentity((sha256("secret-c"),), ("d.fleets",)),
        )
    )
    with pytest.raises(UnauthenticatedError):
        call(identities, bearer("other-b"))
    assert call(identities, bearer("secret-a"), "a.fleets").fleet == "a"
    # No credential belongs to two: the first by name keeps it.
    assert call(identities, bearer("secret-c"), "c.fleets").fleet == "c"
    assert call(identities, None, "d.fleets").fleet == "d"
    assert (identities.added, identities.ignored) == ({"c", "d"}, 3)
    # Once the file says nothing else, they count.
    write(path, {})
    assert identities.reload()
    assert call(identities, bearer("other-b")).roles == {"operate"}


def test_a_damaged_added_identity_recognises_nobody(path: Path):
    identities = Identities(path)
    damaged = {
        "c d": AddedIdentity((sha256("x"),)),
        "e": AddedIdentity(("short",)),
        "f": AddedIdentity(roles=("root",)),
    }
    identities.merge(AddedIdentities("r", damaged, ("g",)))
    assert (identities.added, identities.ignored) == (frozenset(), 4)
    assert call(identities, bearer("secret-a")).fleet == "a"

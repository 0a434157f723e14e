"""Fleets by their tokens."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from learner.gateway.auth import Tokens, UnauthenticatedError
from runtime.settings import SettingsError


def write(path: Path, tokens: dict[str, str]) -> Path:
    temporary = path.with_suffix(".new")
    temporary.write_text(
        json.dumps({name: {"tokens": [hashlib.sha256(t.encode()).hexdigest()]} for name, t in tokens.items()})
    )
    os.replace(temporary, path)
    return path


def bearer(token: str) -> list[tuple[str, str]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens.json", {"a": "secret-a", "b": "secret-b"})


def test_fleet_of_its_token(path: Path):
    tokens = Tokens(path)
    assert tokens.fleet(bearer("secret-a")) == "a"
    assert tokens.fleet(bearer("secret-b")) == "b"
    assert tokens.fleet([("authorization", "bearer secret-b")]) == "b"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no token"),
        ([], "no token"),
        ([("authorization", "")], "Bearer"),
        ([("authorization", "Basic c2VjcmV0LWE=")], "Bearer"),
        (bearer("secret-a") + bearer("secret-b"), "one 'Bearer"),
        (bearer(""), "unknown token"),
        (bearer("secret"), "unknown token"),
        # The hash is not the token: who reads the file cannot call.
        (bearer(hashlib.sha256(b"secret-a").hexdigest()), "unknown token"),
    ],
)
def test_everything_else_is_refused(path: Path, metadata: object, message: str):
    with pytest.raises(UnauthenticatedError, match=message):
        Tokens(path).fleet(metadata)


def test_a_new_file_counts_at_once(path: Path):
    tokens = Tokens(path)
    write(path, {"a": "renewed", "c": "secret-c"})
    assert tokens.fleet(bearer("renewed")) == "a"
    assert tokens.fleet(bearer("secret-c")) == "c"
    for revoked in ("secret-a", "secret-b"):
        with pytest.raises(UnauthenticatedError):
            tokens.fleet(bearer(revoked))


@pytest.mark.parametrize("damaged", ['{"a": "', "[]", '{"a": "short"}', None])
def test_a_damaged_file_changes_nothing(path: Path, damaged: str | None):
    tokens = Tokens(path)
    if damaged is None:
        path.unlink()
    else:
        path.write_text(damaged)
    assert tokens.fleet(bearer("secret-a")) == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ('{"a"', "not valid JSON"),
        ("[1]", "expected an object"),
        (json.dumps({"a b": "0" * 64}), "fleet 'a b'"),
        (json.dumps({"a": "0" * 63}), "fleet 'a': tokens: expected"),
        (json.dumps({"a": 7}), "fleet 'a': tokens: expected"),
    ],
)
def test_a_bad_file_at_the_start_is_an_error(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "tokens.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        Tokens(path)
    assert str(path) in str(caught.value)

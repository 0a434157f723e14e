"""A target is refused before a token could leave the machine unprotected, or without credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.gateway.operator_target import OperatorError, Target

FILE = Path("f")


@pytest.mark.parametrize(
    ("address", "options", "plain"),
    [
        ("127.0.0.1:50051", {}, True),
        ("localhost:50051", {}, True),
        ("[::1]:50051", {}, True),
        ("localhost:50051", {"ca": FILE}, False),
        ("localhost:50051", {"server_name": "gateway"}, False),
        ("gateway.example.com:50051", {}, False),
        ("10.0.0.7:50051", {"insecure": True}, True),
    ],
)
def test_plain_text_leaves_this_machine_only_where_it_is_allowed(address: str, options: dict[str, Any], plain: bool):
    assert Target(address, FILE, **options).plain_text is plain


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "gateway"}, "expected HOST:PORT"),
        ({"address": ":50051"}, "expected HOST:PORT"),
        ({"address": "g:99999"}, "expected HOST:PORT"),
        ({"address": "g:1", "token_file": None}, "no credentials: give --token-file F"),
        ({"address": "g:1", "certificate": FILE}, "--certificate and --key belong together"),
        ({"address": "g:1", "insecure": True, "ca": FILE}, "--insecure means plain text"),
    ],
)
def test_what_cannot_be_used(options: dict[str, Any], words: str):
    with pytest.raises(OperatorError, match=words):
        Target(**{"token_file": FILE, **options})


def test_tokens_and_files(tmp_path: Path):
    file = tmp_path / "token"
    target = Target("localhost:1", file, ca=tmp_path / "ca.pem")
    with pytest.raises(OperatorError, match=f"--token-file {file}: No such file"):
        target.token()
    with pytest.raises(OperatorError, match=r"--ca .*ca.pem: No such file"):
        target.content("ca")
    file.write_text("a b\n")
    with pytest.raises(OperatorError, match="expected one token"):
        target.token()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(OperatorError, match="not text"):
        target.token()
    file.write_text(" secret\n")
    assert target.token() == "secret"

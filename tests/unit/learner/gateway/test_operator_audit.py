"""What the log says of an operator's request: everything but secrets, and not without end."""

from __future__ import annotations

import json

import pytest

from learner.gateway.operator_audit import described, without_secrets
from leeway.v1 import operator_pb2 as op


def test_a_request_is_said_without_digests_of_tokens():
    text = described(op.AddIdentityRequest(name="x", roles=["operate"], token_sha256="a" * 64))
    assert json.loads(text) == {"name": "x", "roles": ["operate"], "token_sha256": "given"}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/path", "s3://bucket/path"),
        ("s3://key:secret@bucket/path?token=secret#secret", "s3://bucket/path"),
        ("file:///srv/backup", "file:///srv/backup"),
        ("http://[secret", "an address that cannot be read"),
    ],
)
def test_addresses_are_said_without_keys(uri: str, shown: str):
    assert without_secrets(uri) == shown
    text = described(op.RequestChangeRequest(request_id="r", change=op.Change(backup=op.BackUp(uri=uri))))
    assert json.loads(text)["change"]["backup"]["uri"] == shown


def test_a_long_request_is_cut():
    assert len(described(op.PurgeQuarantineRequest(keys=["k" * 5000]))) == 2003

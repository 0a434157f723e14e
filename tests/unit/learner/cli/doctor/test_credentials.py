"""Identities, tokens, and files with secrets that are readable to others."""

from __future__ import annotations

from typing import Any

import pytest

from learner.cli.doctor.credentials import credentials
from learner.cli.preflight.examined_config import ExaminedConfig
from tests.tools.doctor_site import TOKEN, Site, bad


@pytest.mark.parametrize(
    ("fleets", "message"),
    [
        ("[1", "not valid JSON"),
        ({"a": {"tokens": ["short"]}}, "a.tokens.0"),
        ({"a": {"roles": ["operate"]}}, "no fleet may submit"),
        ({}, "no fleet may submit"),
    ],
)
def test_identities_that_no_gateway_could_use(site: Site, fleets: Any, message: str):
    if isinstance(fleets, str):
        (site.root / "identities.json").write_text(fleets)
    else:
        site.identities(fleets)
    (found,) = bad(credentials(site.read("gateway")))
    assert found.startswith("fail identities")
    assert message in found


@pytest.mark.parametrize(
    ("token", "message"), [("", "is empty"), ("two words", "more than one word"), (None, "No such")]
)
def test_a_token_file_that_holds_no_token(site: Site, token: str | None, message: str):
    if token is None:
        (site.root / "token").unlink()
    else:
        site.secret("token", token)
    assert message in bad(credentials(site.read("worker")))[0]


def test_a_token_that_the_gateway_does_not_know_and_one_that_it_does(site: Site):
    gateway, worker = site.read("gateway"), site.read("worker")
    both = ExaminedConfig("run", gateway.gateway, None, worker.workers)
    assert bad(credentials(both)) == []
    site.secret("token", "another")
    assert bad(credentials(both)) == [f"fail token: {site.root}/token: unknown token (for the gateway)"]


def test_a_secret_that_everybody_may_read(site: Site):
    site.secret("token", TOKEN, mode=0o644)
    assert bad(credentials(site.read("worker"))) == [
        f"warn permissions: {site.root}/token: mode 0644, every user may read it"
    ]

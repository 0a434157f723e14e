"""`leeway doctor` on who may speak to whom: identities, tokens, certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.cli.doctor import credentials
from learner.cli.doctor.certificates import certificates
from learner.cli.doctor.subject import Subject
from tests.service.certificates import Authority
from tests.tools.doctor_site import TOKEN, Site, bad


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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
    (found,) = bad(credentials.credentials(site.read("gateway")))
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
    assert message in bad(credentials.credentials(site.read("worker")))[0]


def test_a_token_that_the_gateway_does_not_know_and_one_that_it_does(site: Site):
    gateway, worker = site.read("gateway"), site.read("worker")
    both = Subject("run", gateway.gateway, None, worker.workers)
    assert bad(credentials.credentials(both)) == []
    site.secret("token", "another")
    assert bad(credentials.credentials(both)) == [f"fail token: {site.root}/token: unknown token (for the gateway)"]


def test_a_secret_that_everybody_may_read(site: Site):
    site.secret("token", TOKEN, mode=0o644)
    assert bad(credentials.credentials(site.read("worker"))) == [
        f"warn permissions: {site.root}/token: mode 0644, every user may read it"
    ]


def tls_pair(site: Site, *sans: str, days: float = 90, authority: Authority | None = None) -> dict[str, Path]:
    pair = (authority or site.authority).issue(f"pair-{len(list(site.root.rglob('*.crt')))}", *sans, days=days)
    pair.key.chmod(0o600)
    return {"certificate": pair.certificate, "key": pair.key}


@pytest.mark.parametrize(
    ("days", "state", "message"), [(90, "", ""), (3, "warn", "3 days left"), (-1, "fail", "expired")]
)
def test_the_dates_of_a_certificate(site: Site, days: float, state: str, message: str):
    found = bad(certificates(site.read("gateway", tls=tls_pair(site, "gateway", days=days))))
    assert [one.split()[0] for one in found] == ([state] if state else [])
    assert all(message in one for one in found)


def test_a_key_of_another_certificate_and_a_file_that_is_missing(site: Site):
    one, other = tls_pair(site, "gateway"), tls_pair(site, "gateway")
    mixed = {"certificate": one["certificate"], "key": other["key"]}
    assert "KEY_VALUES_MISMATCH" in bad(certificates(site.read("gateway", tls=mixed)))[0]
    gone = {"certificate": one["certificate"], "key": site.root / "gone"}
    assert "No such file" in bad(certificates(site.read("gateway", tls=gone)))[0]


def between(site: Site, server: dict[str, Any], client: dict[str, Any]) -> list[str]:
    gateway = site.read("gateway", tls=server).gateway
    worker = site.read("worker", gateway="gateway.example:50051", tls=client).workers
    return bad(certificates(Subject("run", gateway, None, worker)))


def test_a_gateway_and_a_worker_that_trust_each_other(site: Site):
    server = {**tls_pair(site, "gateway.example"), "client_ca": site.authority.certificate}
    client = {**tls_pair(site, "spiffe://fleets/tokyo"), "ca": site.authority.certificate}
    site.identities({"tokyo": {"sans": ["spiffe://fleets/tokyo"]}})
    assert between(site, server, client) == []


def test_a_certificate_for_another_name_and_one_of_a_stranger(site: Site):
    client = {"ca": site.authority.certificate}
    assert "gateway.example" in between(site, tls_pair(site, "elsewhere"), client)[0]
    stranger = Authority(site.root / "stranger", "stranger")
    assert "issuer" in between(site, tls_pair(site, "gateway.example", authority=stranger), client)[0]
    server = {**tls_pair(site, "gateway.example"), "client_ca": stranger.certificate}
    assert len(between(site, server, {**client, **tls_pair(site, "tokyo")})) == 1


def test_a_client_certificate_that_is_no_fleets(site: Site):
    server = {**tls_pair(site, "gateway.example"), "client_ca": site.authority.certificate}
    gateway = site.read("gateway", tls=server).gateway
    client = {**tls_pair(site, "unknown.example"), "ca": site.authority.certificate}
    worker = site.read("worker", gateway="gateway.example:50051", tls=client, token_file=None).workers
    (found,) = bad(certificates(Subject("run", gateway, None, worker)))
    assert "unknown.example" in found

"""Certificates: dates, keys, names, and whether gateway and worker accept each other's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.cli.doctor.certificates import certificates
from learner.cli.preflight.examined_config import ExaminedConfig
from tests.service.certificates import Authority
from tests.tools.doctor_site import Site, bad


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
    return bad(certificates(ExaminedConfig("run", gateway, None, worker)))


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
    (found,) = bad(certificates(ExaminedConfig("run", gateway, None, worker)))
    assert "unknown.example" in found
